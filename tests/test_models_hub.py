"""The keras-hub adapter, with a stand-in for keras-hub and, where installed, keras-hub itself."""

import sys
import types

import keras
import numpy as np
import pytest

from keras_robustseg.errors import RobustSegError
from keras_robustseg.models import from_hub


class Backbone(keras.Model):
    """Halves the size twice, as real ones do more often."""

    def __init__(self, size=(None, None)):
        image = keras.Input((*size, 3))
        x = keras.layers.Conv2D(4, 4, strides=4, padding="same")(image)
        super().__init__(image, keras.layers.UpSampling2D(4)(x))


class ImageSegmenter(keras.Model):
    """What the adapter uses of `keras_hub.models.ImageSegmenter`."""

    asked = None

    @classmethod
    def from_preset(cls, preset, load_weights=True, **kwargs):
        ImageSegmenter.asked = (preset, load_weights, kwargs)
        return Segmenter(Backbone(), **kwargs)


class Segmenter(ImageSegmenter):
    backbone_cls = Backbone

    def __init__(self, backbone, num_classes):
        super().__init__(backbone.input, keras.layers.Dense(num_classes)(backbone.output))

    def predict_step(self, data):
        raise AssertionError("keras-hub's own preprocessing must stay out")


@pytest.fixture
def hub(monkeypatch):
    module = types.ModuleType("keras_hub")
    module.models = types.SimpleNamespace(ImageSegmenter=ImageSegmenter)
    monkeypatch.setitem(sys.modules, "keras_hub", module)
    return module


def images_of(*shape):
    return np.random.default_rng(5).normal(size=shape).astype("float32")


@pytest.mark.usefixtures("hub")
def test_a_preset_gets_a_new_head():
    network = from_hub("some_preset", 5, input_shape=(None, None, 3), load_weights=False)
    assert ImageSegmenter.asked == ("some_preset", False, {"num_classes": 5})
    assert network.predict_on_batch(images_of(2, 9, 14, 3)).shape == (2, 9, 14, 5)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("size", [(None, None), (16, 16)])
def test_logits_have_the_size_of_the_image(size):
    network = from_hub(Backbone(size), 2, input_shape=(None, None, 1), multiple=4)
    for shape in ((2, 9, 14, 1), (1, 33, 5, 1)):
        logits = network(images_of(*shape))
        assert tuple(logits.shape) == (*shape[:-1], 2)
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"


@pytest.mark.usefixtures("hub")
def test_grey_images_are_repeated_and_normalized():
    segmenter = Segmenter(Backbone(), 2)
    network = from_hub(
        segmenter, 2, input_shape=(None, None, 1), multiple=4, normalization=([10.0], [4.0])
    )
    images = images_of(1, 8, 12, 1)
    expected = segmenter(np.repeat((images - 10) / 2, 3, axis=-1))
    np.testing.assert_allclose(network(images), expected, atol=1e-5)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("preset", "change", "named"),
    [
        (Backbone, {"input_shape": (None, None, 2)}, "input_shape"),
        (Backbone, {"input_shape": (8, 8, 8, 1)}, "input_shape"),
        (lambda: Segmenter(Backbone(), 3), {}, "num_classes"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3))]), {}, "preset"),
    ],
)
def test_what_does_not_fit_is_named(preset, change, named):
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        from_hub(preset(), 2, **{"input_shape": (None, None, 3), **change})


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(RobustSegError, match=r"keras-robustseg\[hub\]"):
        from_hub("some_preset", 2, input_shape=(None, None, 3))


def test_segformer_of_keras_hub():
    hub = pytest.importorskip("keras_hub")
    encoder = hub.models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(32, 32, 3),
        hidden_dims=[8, 16],
    )
    backbone = hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=16)
    network = from_hub(backbone, 3, input_shape=(None, None, 1))
    assert network.predict_on_batch(images_of(2, 33, 50, 1)).shape == (2, 33, 50, 3)
