"""Tiny networks and data for the label models that PENCIL is compared with."""

import keras
import numpy as np
from keras import ops

from keras_robustseg.training import RobustSegmenter


def logits_only(shape, classes):
    """A network whose prediction is its input: p is known to the test."""
    image = keras.Input((*shape, classes))
    return keras.Model(image, keras.layers.Activation("linear", dtype="float32")(image))


def tiny(channels=1, classes=2, dims=2, seed=None, policy=None):
    conv = keras.layers.Conv2D if dims == 2 else keras.layers.Conv3D
    options = {"dtype": policy} if policy else {}
    image = keras.Input((*[None] * dims, channels))
    start = keras.initializers.GlorotUniform(seed=seed)
    x = conv(4, 3, padding="same", kernel_initializer=start, **options)(image)
    x = keras.layers.BatchNormalization(**options)(x)
    x = keras.layers.Activation("relu", **options)(x)
    x = conv(classes, 1, kernel_initializer=start, **options)(x)
    return keras.Model(image, keras.layers.Activation("linear", dtype="float32")(x))


def batch(seed=0, count=4, shape=(6, 7), classes=2, channels=1):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(count, *shape, channels)).astype("float32")
    return image, rng.integers(0, classes, (count, *shape)).astype("int32")


def blobs(seed=0, count=8, size=8, classes=2):
    """Images whose bright half is class 1; a tenth of the labels is wrong."""
    rng = np.random.default_rng(seed)
    truth = (np.arange(size) >= rng.integers(2, size - 2, (count, 1))).astype("int32")
    truth = np.broadcast_to(truth[:, None], (count, size, size))
    image = truth[..., None] + rng.normal(0, 0.1, (count, size, size, 1))
    wrong = rng.uniform(size=truth.shape) < 0.1
    return image.astype("float32"), np.where(wrong, (truth + 1) % classes, truth), truth


def compiled(network, label_model, shapes=None, rate=0.0, jit=False, **options):
    model = RobustSegmenter(network, label_model, label_shapes=shapes, **options)
    model.compile(keras.optimizers.SGD(rate), jit_compile=jit)
    return model


def inputs(image, ids=None):
    return {"image": image, "sample_id": np.arange(len(image)) if ids is None else ids}


def loss_of(model, x, mask, weight=None):
    logs = model.train_on_batch(x, mask, sample_weight=weight, return_dict=True)
    return float(logs["loss"])


def softmax(logits):
    return ops.convert_to_numpy(ops.softmax(logits, axis=-1)).astype("float64")


def same_weights(first, second, atol=0.0):
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), atol=atol, err_msg=a.path
        )
