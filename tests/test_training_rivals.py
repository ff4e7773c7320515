"""What ELR, co-teaching and ADELE share: exact resume, recipes, runs, the JAX backend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from resume_child import digest
from rivals import tiny
from toy import ToySource

from keras_robustseg import run
from keras_robustseg.data import Augment, Ingest, Pipeline
from keras_robustseg.errors import RecipeError
from keras_robustseg.labels import Adele, CoTeaching, EarlyLearning
from keras_robustseg.recipes import recipe_from_dict
from keras_robustseg.training import ExactResume, RobustSegmenter

MODELS = {
    "elr": EarlyLearning,
    "co_teaching": lambda: CoTeaching(forget_rate=0.3),
    "adele": lambda: Adele(confidence=0.51, slope_drop=0.01, scales=(0.5, 1.0)),
}


def build(kind):
    keras.utils.set_random_seed(0)
    source = ToySource(9, shape=(8, 8), shift=1)
    label_model = MODELS[kind]()
    data = Pipeline(
        Ingest(source, source.split("train")),
        batch_size=2,
        augment=Augment(rotate90=True),
        label_rows=label_model.keeps_rows,
        seed=3,
    )
    shapes = data.shapes if label_model.keeps_rows else None
    model = RobustSegmenter(tiny(), label_model, label_shapes=shapes)
    model.compile(keras.optimizers.Adam(3e-2))
    return model, data


def fit(model, data, directory, *callbacks, epochs=6):
    saver = ExactResume(directory, data, every_steps=2)
    model.fit(
        data.dataset(), epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks, saver]
    )
    return digest(model), (Path(directory) / "history.csv").read_bytes()


class Crash(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.step) == self.step:
            raise RuntimeError("crash")


@pytest.mark.parametrize("kind", MODELS)
def test_a_run_that_crashed_ends_with_the_same_bits(tmp_path, kind):
    model, data = build(kind)
    straight = fit(model, data, tmp_path / "straight")
    if kind == "adele":
        assert model.objective.state.begun()[1] == 1
    with pytest.raises(RuntimeError, match="crash"):
        fit(*build(kind), tmp_path / "stopped", Crash(17))
    assert fit(*build(kind), tmp_path / "stopped") == straight


def recipe(path, method, **changes):
    values = {
        "name": "toy",
        "data": {"source": {"kind": "npz", "path": str(path)}},
        "pipeline": {"batch_size": 4},
        "model": {"kind": "unet", "width": 2, "depth": 1},
        "method": method,
        "training": {"epochs": 1},
        "evaluation": {"surface": False},
        "report": {"overlays": 1},
        **changes,
    }
    return recipe_from_dict(values)


def archive(path):
    source = ToySource(12, shape=(8, 8), shift=1)
    examples = [source.load(i) for i in range(12)]
    np.savez(
        path,
        image=np.stack([e.image for e in examples]),
        mask=np.stack([e.mask for e in examples]),
        truth=np.stack([e.truth for e in examples]),
        split=np.array([s.split for s in source.samples]),
        classes=np.array(source.classes),
    )
    return path


METHODS = [
    {"kind": "elr", "momentum": 0.9, "weight": 1.0, "storage": "float16"},
    {"kind": "co_teaching", "served": "mean", "scope": "image"},
    {"kind": "adele", "scales": [1.0, 0.5], "repeat": False},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["kind"])
def test_recipes_go_round_and_have_the_defaults_of_the_classes(method):
    checked = recipe("toy.npz", method)
    assert recipe_from_dict(checked.resolved()) == checked
    plain = recipe("toy.npz", {"kind": method["kind"]}).method.model_dump()
    assert plain.pop("kind") == method["kind"]
    assert plain.pop("region_weight") == 0.0
    config = type(MODELS[method["kind"]]())().get_config()
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()} == config


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ({"kind": "elr", "momentum": 1.0}, "method.momentum: got 1.0"),
        ({"kind": "co_teaching", "forget_rate": 1}, "method.forget_rate: got 1"),
        ({"kind": "co_teaching", "scope": "pixel"}, "method.scope: got 'pixel'"),
        ({"kind": "adele", "scales": [0.5]}, "factors with 1 among them"),
        ({"kind": "adele", "tau": 0.5}, "method.tau: unknown field"),
    ],
)
def test_a_mistake_in_a_recipe_is_said(method, line):
    with pytest.raises(RecipeError, match=line):
        recipe("toy.npz", method)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["kind"])
def test_a_run_trains_evaluates_and_exports(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    metrics = run.train(recipe(archive(tmp_path / "toy.npz"), method), tmp_path / "run", verbose=0)
    assert metrics["training"]["skipped_steps"] == 0
    assert ("corrected" in metrics["labels"]) == (method["kind"] != "co_teaching")
    assert list(Path(metrics["export"]["path"]).rglob("saved_model.pb"))
    assert run.evaluate(tmp_path / "run")["test"] == metrics["test"]


CHILD = """
import json, sys
import keras, numpy as np
from rivals import batch, compiled, inputs, logits_only
from keras_robustseg.labels import Adele, EarlyLearning
assert keras.backend.backend() == sys.argv[1]
found = {}
for model in (EarlyLearning(), Adele(scales=(0.5, 1.0), confidence=0.5)):
    logits, mask = batch(1, 4, (6, 4), 3, 3)
    trainer = compiled(logits_only((None, None), 3), model, [(6, 4)] * 4)
    if isinstance(model, Adele):
        trainer.objective.state.since.assign(np.array([0.0, 1.0, 1.0], "float32"))
    history = trainer.fit(inputs(logits), mask, batch_size=2, epochs=2, shuffle=False, verbose=0)
    rows = np.stack([trainer.label_store.sample(i) for i in range(4)])
    found[type(model).__name__] = [history.history["loss"], rows.ravel().tolist()]
from keras_robustseg.labels import small_loss_selection
rng = np.random.default_rng(0)
losses, classes = rng.exponential(size=(2, 5, 5)).astype("float32"), rng.integers(0, 3, (2, 5, 5))
chosen = small_loss_selection(losses, classes, losses > 0.2, num_classes=3, forget_rate=0.3)
found["selection"] = [[], np.asarray(chosen).ravel().tolist()]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_jax_does_the_same():
    pytest.importorskip("jax")
    results = []
    for backend in ("tensorflow", "jax"):
        environment = {**os.environ, "KERAS_BACKEND": backend}
        command = [sys.executable, "-c", CHILD, backend]
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(json.loads(done.stdout.splitlines()[-1]))
    for name, (losses, rows) in results[0].items():
        np.testing.assert_allclose(results[1][name][0], losses, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(results[1][name][1], rows, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_jax_trains_two_networks():
    pytest.importorskip("jax")
    code = (
        "import keras, numpy as np\n"
        "from rivals import batch, compiled, tiny\n"
        "from keras_robustseg.labels import CoTeaching\n"
        "image, mask = batch(1, 4, (6, 4), 3)\n"
        "model = compiled(tiny(classes=3), CoTeaching(served='mean'), rate=0.1)\n"
        "before = [np.array(w) for w in model.objective.partner.weights]\n"
        "model.fit(image, mask, batch_size=2, epochs=2, verbose=0)\n"
        "moved = [np.abs(np.array(w) - b).max() > 0\n"
        "         for w, b in zip(model.objective.partner.weights, before)]\n"
        "assert np.mean(moved) > 0.7, moved\n"
        "assert np.isfinite(model.evaluate(image, mask, verbose=0))\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr[-2000:]
