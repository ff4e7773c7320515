"""The contract of `contract.py` for every exported loss and metric."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import contract
import keras
import numpy as np
import pytest

from keras_robustseg import losses, metrics

BATCHES = contract.batches()
each_loss = pytest.mark.parametrize("case", contract.LOSSES, ids=str)
each_metric = pytest.mark.parametrize("case", contract.METRICS, ids=str)
each_case = pytest.mark.parametrize("case", [*contract.LOSSES, *contract.METRICS], ids=str)
each_batch = pytest.mark.parametrize("name", BATCHES)


def test_table_has_every_exported_class():
    tabled = {case.kind for case in (*contract.LOSSES, *contract.METRICS)}
    tabled |= set(contract.DIAGNOSTICS)
    for room, base in ((losses, keras.losses.Loss), (metrics, keras.metrics.Metric)):
        exported = [getattr(room, name) for name in room.__all__]
        kinds = {c for c in exported if inspect.isclass(c) and issubclass(c, base)}
        assert {kind for kind in kinds if not inspect.isabstract(kind)} <= tabled


@each_loss
@each_batch
def test_loss_is_finite(case, name):
    contract.loss_is_finite(case, BATCHES[name])


@each_loss
@pytest.mark.parametrize(
    "promise",
    [
        contract.loss_reads_no_void_pixel,
        contract.loss_is_as_if_void_were_cut_out,
        contract.loss_shows_what_is_broken,
        contract.loss_ignores_the_scale_of_weights,
        contract.loss_descends,
        contract.loss_reductions_agree,
        contract.loss_takes_probabilities,
        contract.loss_is_float32_inside,
    ],
    ids=lambda promise: promise.__name__,
)
def test_loss(case, promise, rng):
    promise(case, rng)


@each_loss
def test_loss_of_void_is_zero(case):
    contract.loss_of_void_is_zero(case)


@pytest.mark.parametrize("reduction", ["mean", "sum_over_batch_size", "max"])
def test_means_that_count_void_pixels_are_refused(reduction):
    with pytest.raises(ValueError, match="void pixels must not count"):
        losses.CrossEntropy(reduction=reduction)


@each_metric
@pytest.mark.parametrize(
    "promise",
    [
        contract.metric_streams,
        contract.metric_reads_no_void_pixel,
        contract.metric_takes_probabilities,
    ],
    ids=lambda promise: promise.__name__,
)
def test_metric(case, promise, rng):
    promise(case, rng)


@each_metric
def test_metric_of_void_is_undefined(case):
    contract.metric_of_void_is_undefined(case)


@each_case
@pytest.mark.parametrize("name", ["ids", "readers", "soft"])
def test_config_round_trip(case, name):
    contract.config_round_trip(case, BATCHES[name])


def test_one_loss_is_the_same_compiled():
    contract.loss_is_the_same_compiled(contract.LOSSES[0], BATCHES["weights of pixels"])


@pytest.mark.slow
@each_loss
@pytest.mark.parametrize("name", ["ids", "readers", "soft", "3-D", "binary logit", "all void"])
def test_loss_is_the_same_compiled(case, name):
    contract.loss_is_the_same_compiled(case, BATCHES[name])


def small_model(loss, policy="float32", **options):
    image = keras.Input((None, None, 1))
    hidden = keras.layers.Conv2D(4, 3, padding="same", activation="relu", dtype=policy)(image)
    scores = keras.layers.Conv2D(contract.CLASSES, 1, dtype=policy)(hidden)
    model = keras.Model(image, scores)
    counts = [case.make() for case in contract.METRICS]
    model.compile(
        optimizer=keras.optimizers.SGD(0.05), loss=loss, weighted_metrics=counts, **options
    )
    return model


def training_data(rng):
    image = rng.normal(size=(2, 9, 7, 1)).astype("float32")
    return image, contract.ids(rng, 2, 9, 7), rng.random((2, 9, 7)).astype("float32")


def results(model, data):
    return model.evaluate(*data[:2], sample_weight=data[2], verbose=0, return_dict=True)


@each_loss
def test_compiled_model_survives_saving(case, rng, tmp_path):
    data, model = training_data(rng), small_model(case.make(ignore_class=2), run_eagerly=True)
    model.fit(*data[:2], sample_weight=data[2], verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.loss.get_config() == model.loss.get_config()
    expected, found = results(model, data), results(again, data)
    assert found.keys() == expected.keys() == {"loss", "dice", "iou", "pixel_accuracy"}
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6)


@each_loss
@pytest.mark.parametrize(
    "policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_trains_in_mixed_precision(case, policy, rng):
    data, model = training_data(rng), small_model(case.make(), policy, jit_compile=False)
    history = model.fit(*data[:2], sample_weight=data[2], verbose=0, epochs=8).history
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.slow
@each_loss
def test_training_is_the_same_compiled(case, rng):
    data, weights = training_data(rng), []
    for jit in (False, True):
        keras.utils.set_random_seed(1)
        model = small_model(case.make(), jit_compile=jit)
        model.fit(*data[:2], sample_weight=data[2], verbose=0, epochs=3)
        weights.append(np.concatenate([w.numpy().ravel() for w in model.trainable_weights]))
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-6)


def test_jax_gives_the_same(tmp_path):
    paths = [tmp_path / "eager.npz", tmp_path / "compiled.npz"]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, contract.__file__, *map(str, paths)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    expected = contract.all_results()
    for path in paths:
        found = np.load(path)
        assert len(found.files) >= 2 * len(contract.LOSSES)
        for key in found.files:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-5, atol=1e-6, err_msg=key)
