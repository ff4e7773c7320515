"""A SavedModel in a process that has TensorFlow and not this package; cards; refusals."""

import io
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.special import log_softmax

from keras_robustseg.errors import ExportError
from keras_robustseg.export import export_network, export_run, verify_export
from keras_robustseg.models import unet

CLASSES = ("background", "nodule", "vessel")
RECIPE = {"name": "small", "training": {"epochs": 3}}
METRICS = {"test": {"dice": 0.8125, "hd95": float("nan")}}

SERVER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "keras_robustseg":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import numpy as np
import tensorflow as tf

given = np.load("given.npz")
model = tf.saved_model.load("model")
results = {}
for key in ("one", "two"):
    found = model.signatures["serving_default"](images=tf.constant(given[key]))
    results |= {f"{key}_{name}": value.numpy() for name, value in found.items()}
for key in ("grey", "deep", "jpeg"):
    pictures = tf.constant([bytes(given[key]), bytes(given[key])])
    found = model.signatures["serve_png"](images=pictures)
    results |= {f"{key}_{name}": found[name].numpy() for name in ("mask", "entropy")}
    results[f"{key}_png"] = np.frombuffer(found["mask_png"].numpy()[1], "uint8")
found = model.signatures["serve_png_json"](images=pictures)
results["json_png"] = np.frombuffer(found["mask_png_bytes"].numpy()[1], "uint8")
try:
    model.signatures["serve_png"](images=tf.constant([bytes(given["grey"]), bytes(given["small"])]))
except tf.errors.InvalidArgumentError as error:
    results["refusal"] = str(error)
np.savez("results.npz", **results)
"""


def encoded(array, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return np.frombuffer(file.getvalue(), "uint8")


def logits_of(network, images):
    outputs = network(images, training=False)
    logits = outputs[0] if isinstance(outputs, list) else outputs
    return keras.ops.convert_to_numpy(logits).astype("float64")


def expected(network, images):
    """Probabilities, mask and entropy by their definitions, in float64."""
    log_p = log_softmax(logits_of(network, images), axis=-1)
    return np.exp(log_p), log_p.argmax(-1), -(np.exp(log_p) * log_p).sum(-1)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """An exported network, what a bare process was given, and what it answered."""
    folder = tmp_path_factory.mktemp("served")
    keras.utils.set_random_seed(3)
    network = unet(
        (None, None, 1), 3, width=4, depth=3, deep_supervision=True, normalization=([99.0], [4e3])
    )
    export_network(
        network,
        folder / "model",
        classes=CLASSES,
        recipe=RECIPE,
        metrics=METRICS,
        extra_card={"Data": "Rendered. CC BY 3.0."},
    )
    rng = np.random.default_rng(6)
    grey = rng.integers(0, 256, (13, 18), "uint8")
    deep = rng.integers(0, 65536, (9, 11), "uint16")
    given = {
        "one": rng.normal(90, 60, (1, 13, 18, 1)).astype("float32"),
        "two": rng.normal(90, 60, (2, 33, 7, 1)).astype("float32"),
        "grey": encoded(grey),
        "deep": encoded(deep),
        "jpeg": encoded(grey, "JPEG"),
        "small": encoded(grey[:5]),
    }
    np.savez(folder / "given.npz", **given)
    subprocess.run([sys.executable, "-c", SERVER], cwd=folder, check=True)
    return network, folder, {**given, "grey_pixels": grey, "deep_pixels": deep}


@pytest.fixture(scope="module")
def answers(served):
    return dict(np.load(served[1] / "results.npz"))


@pytest.mark.parametrize("key", ["one", "two"])
def test_a_bare_process_answers_arrays_of_any_size_and_batch(served, answers, key):
    network, _, given = served
    probabilities, mask, entropy = expected(network, given[key])
    np.testing.assert_allclose(answers[f"{key}_probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(answers[f"{key}_entropy"], entropy, atol=1e-5)
    np.testing.assert_array_equal(answers[f"{key}_mask"], mask)
    assert answers[f"{key}_mask"].dtype == np.int32


@pytest.mark.parametrize("key", ["grey", "deep"])
def test_a_bare_process_answers_pictures_of_8_and_16_bits(served, answers, key):
    network, _, given = served
    pixels = given[f"{key}_pixels"].astype("float32")[None, ..., None]
    _, mask, entropy = expected(network, pixels)
    np.testing.assert_array_equal(answers[f"{key}_mask"], np.concatenate([mask, mask]))
    # 16 bits give logits of 2000, which batches of one and of two round differently.
    rounding = 4 * np.finfo("float32").eps * np.abs(logits_of(network, pixels)).max()
    np.testing.assert_allclose(answers[f"{key}_entropy"][1], entropy[0], atol=1e-5 + rounding)
    picture = Image.open(io.BytesIO(answers[f"{key}_png"].tobytes()))
    np.testing.assert_array_equal(np.asarray(picture), mask[0])


def test_jpeg_is_read_as_pillow_reads_it(served, answers):
    network, _, given = served
    pixels = np.asarray(Image.open(io.BytesIO(given["jpeg"].tobytes()))).astype("float32")
    _, _, entropy = expected(network, pixels[None, ..., None])
    # Decoders may round a pixel differently by one.
    np.testing.assert_allclose(answers["jpeg_entropy"][0], entropy[0], atol=0.05)
    np.testing.assert_array_equal(answers["json_png"], answers["jpeg_png"])


def test_pictures_of_different_sizes_are_refused_with_the_reason(answers):
    assert "must be equal in height and width" in str(answers["refusal"])


def test_papers_lie_beside_the_graph(served):
    _, folder, _ = served
    manifest = verify_export(folder / "model")
    assert manifest["classes"] == list(CLASSES)
    assert manifest["parity"]["saved_model"] < 1e-5
    assert {"README.md", "recipe.yaml", "metrics.json", "saved_model.pb"} <= set(manifest["files"])
    assert yaml.safe_load((folder / "model" / "recipe.yaml").read_text()) == RECIPE
    metrics = json.loads((folder / "model" / "metrics.json").read_text())
    assert metrics == {"test": {"dice": 0.8125, "hd95": None}}
    card = (folder / "model" / "README.md").read_text()
    for part in ("# model", "recipe `small`", "| 2 | vessel |", "CC BY 3.0", "0.8125", "undefined"):
        assert part in card
    assert "serve_png" in card
    assert '{"b64":' in card


def test_weights_of_the_other_outputs_stay_out(served):
    _, folder, _ = served
    import tensorflow as tf

    path = folder / "model" / "variables" / "variables"
    stored = [shape for _, shape in tf.train.list_variables(str(path)) if shape]
    network = served[0]
    main = keras.Model(network.input, network.outputs[0])
    assert len(main.weights) < len(network.weights)
    assert sorted(stored) == sorted(list(weight.shape) for weight in main.weights)


def test_volumes_and_binary_logits(tmp_path):
    import tensorflow as tf

    network = unet((None, None, None, 2), 1, width=2, depth=2)
    export_network(network, tmp_path / "model", classes=("background", "tumour"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert set(loaded.signatures) == {"serving_default"}
    volume = np.random.default_rng(1).normal(size=(1, 5, 7, 4, 2)).astype("float32")
    found = loaded.signatures["serving_default"](images=tf.constant(volume))
    logits = keras.ops.convert_to_numpy(network(volume))
    foreground = 1 / (1 + np.exp(-logits[..., 0].astype("float64")))
    np.testing.assert_allclose(found["probabilities"][..., 1], foreground, atol=1e-5)
    np.testing.assert_array_equal(found["mask"], foreground > 0.5)
    assert "arrays only" in (tmp_path / "model" / "README.md").read_text()


def test_a_network_of_mixed_precision_is_served_in_float32(tmp_path):
    import tensorflow as tf

    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    network = unet((8, 8, 1), 2, width=2, depth=2)
    keras.mixed_precision.set_global_policy("float32")
    export_network(network, tmp_path / "model", classes=CLASSES[:2])
    plain = unet((8, 8, 1), 2, width=2, depth=2)
    plain.set_weights(network.get_weights())
    image = np.random.default_rng(1).normal(size=(1, 8, 8, 1)).astype("float32")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    found = loaded.signatures["serving_default"](images=tf.constant(image))
    np.testing.assert_allclose(found["probabilities"], expected(plain, image)[0], atol=1e-5)


@pytest.fixture
def network():
    return unet((None, None, 1), 2, width=2, depth=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"formats": ("savedmodel",)}, "formats: expected some of"),
        ({"formats": ()}, "formats: expected some of"),
        ({"classes": CLASSES}, "classes: expected 2 names"),
        ({"formats": ("litert",)}, r"litert: the size must be fixed.*size=None"),
        ({"formats": ("litert",), "size": (8,)}, "litert: the size must be fixed"),
    ],
)
def test_bad_wishes_are_refused_and_leave_nothing(network, tmp_path, change, words):
    with pytest.raises(ExportError, match=words):
        export_network(network, tmp_path / "model", **{"classes": CLASSES[:2], **change})
    assert not list(tmp_path.iterdir())


def test_a_model_without_known_input_is_refused(tmp_path):
    class Custom(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ExportError, match="Wrap it"):
        export_network(Custom(), tmp_path / "model", classes=CLASSES)


def test_layers_that_need_known_sizes_are_told_from_damage(tmp_path):
    image = keras.Input((None, None, 1))
    up = keras.layers.UpSampling2D(2, interpolation="bilinear")(keras.layers.MaxPooling2D()(image))
    network = keras.Model(image, keras.layers.Conv2D(2, 1)(up))
    with pytest.raises(ExportError, match="fixed input_shape"):
        export_network(network, tmp_path / "model", classes=CLASSES[:2])


def test_a_place_that_cannot_be_written_is_named(network, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="file"):
        export_network(network, tmp_path / "file" / "model", classes=CLASSES[:2])


def test_a_failed_export_leaves_the_earlier_one(network, tmp_path):
    export_network(network, tmp_path / "model", classes=CLASSES[:2], formats=("saved_model",))
    before = verify_export(tmp_path / "model")
    with pytest.raises(ExportError):
        export_network(network, tmp_path / "model", classes=CLASSES[:2], formats=("litert",))
    assert verify_export(tmp_path / "model") == before


def run_directory(folder, network):
    folder.mkdir()
    network.save(folder / "network.keras")
    (folder / "recipe.json").write_text(json.dumps({**RECIPE, "export": {"name": None}}))
    (folder / "metrics.json").write_text(json.dumps({"test": {"dice": 0.5}}))
    source = {"name": "lidc", "classes": CLASSES[:2], "notice": "CC BY 3.0", "rendered": True}
    (folder / "source.json").write_text(json.dumps(source))
    return folder


def test_a_run_is_exported_under_its_recipe_name(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_directory(tmp_path / "run", network)
    assert export_run(run) == export_run(run)  # the second takes the place of the first
    manifest = verify_export("saved_models/small")
    assert manifest["classes"] == list(CLASSES[:2])
    card = (tmp_path / "saved_models" / "small" / "README.md").read_text()
    assert "Trained on `lidc`" in card
    assert "rendered by a program" in card


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ExportError, match=r"network\.keras: not found.*resume"):
        export_run(tmp_path)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ExportError, match=r"recipe\.json: cannot be read"):
        export_run(tmp_path)


@pytest.mark.slow
def test_litert_of_a_fixed_size(network, tmp_path):
    import tensorflow as tf

    export_network(
        network, tmp_path / "model", classes=CLASSES[:2], formats=("litert",), size=(9, 14)
    )
    assert verify_export(tmp_path / "model")["parity"]["litert"] < 1e-5
    interpreter = tf.lite.Interpreter(str(tmp_path / "model" / "model.tflite"))
    image = np.random.default_rng(1).normal(size=(1, 9, 14, 1)).astype("float32")
    found = interpreter.get_signature_runner()(images=image)
    probabilities, _, entropy = expected(network, image)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(found["entropy"], entropy, atol=1e-5)


@pytest.mark.slow
def test_onnx_keeps_sizes_open(network, tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    export_network(network, tmp_path / "model", classes=CLASSES[:2], formats=("onnx",))
    session = runtime.InferenceSession(str(tmp_path / "model" / "model.onnx"))
    for shape in ((1, 9, 14, 1), (2, 16, 3, 1)):
        image = np.random.default_rng(1).normal(size=shape).astype("float32")
        found = session.run(["probabilities"], {"images": image})[0]
        np.testing.assert_allclose(found, expected(network, image)[0], atol=1e-5)


def test_onnx_without_its_extra_names_it(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ExportError, match=r"keras-robustseg\[onnx\]"):
        export_network(network, tmp_path / "model", classes=CLASSES[:2], formats=("onnx",))


@pytest.mark.slow
def test_the_jax_backend_exports_through_tensorflow(tmp_path):
    code = (
        "import keras, numpy as np\n"
        "from keras_robustseg.export import export_network\n"
        "from keras_robustseg.models import unet\n"
        "network = unet((None, None, 1), 2, width=2, depth=2, norm='group')\n"
        "image = np.linspace(-1, 1, 70, dtype='float32').reshape(1, 7, 10, 1)\n"
        "logits = keras.ops.convert_to_numpy(network(image))\n"
        "np.savez('given.npz', image=image, logits=logits)\n"
        "export_network(network, 'model', classes=('background', 'nodule'))\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    import tensorflow as tf

    verify_export(tmp_path / "model")
    given = np.load(tmp_path / "given.npz")
    run = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    found = run(images=tf.constant(given["image"]))["probabilities"]
    np.testing.assert_allclose(found, np.exp(log_softmax(given["logits"], axis=-1)), atol=1e-5)
