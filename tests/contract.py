"""The contract that every exported loss and metric keeps, as functions over a table of cases.

A new loss or metric joins by one row in `LOSSES` or `METRICS`. Each function below states one
promise and is called by `test_contract.py` for every row.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_robustseg import labels, losses, metrics, risk

CLASSES = 3


@dataclass(frozen=True)
class Case:
    """One exported class with the arguments it is tested with.

    bounded: never below 0; places: where a pixel lies matters, not only what it holds.
    """

    kind: type
    arguments: dict[str, Any] = field(default_factory=dict)
    bounded: bool = True
    places: bool = False

    def make(self, **more: Any) -> Any:
        return self.kind(**{**self.arguments, **more})

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.kind.__name__}({options})"


LOSSES = [
    Case(losses.CrossEntropy),
    Case(losses.SoftDice),
    Case(losses.SoftDice, {"empty": "penalise", "include_background": True}),
    Case(losses.SoftDice, {"pooled": "batch"}),
    Case(losses.CrossEntropyDice, {"dice_weight": 0.5}),
    Case(losses.GeneralizedJensenShannon, {"trust": 0.17}),
    Case(losses.GeneralizedJensenShannon, {"trust": 0.6, "entropy": 0.3}),
    Case(losses.LabelSmoothing, {"epsilon": 0.2}),
    Case(losses.Bootstrapping, {"trust": 0.7}),
    Case(losses.Bootstrapping, {"belief": "hard"}),
    Case(losses.GeneralizedCrossEntropy, {"q": 0.7}),
    Case(losses.TruncatedGCE, {"q": 0.5, "threshold": 0.1}),
    Case(losses.SymmetricCrossEntropy, {"alpha": 0.5}),
    Case(losses.ProbabilityMAE),
    Case(losses.NoiseRobustDice, {"gamma": 1.5}),
    Case(losses.NoiseRobustDice, {"gamma": 1.2, "empty": "penalise", "pooled": "batch"}),
    Case(losses.TLoss, {"nu": 0.5, "dimension": 64}),
    Case(losses.TLoss, {"nu": "likeliest", "dimension": 16}),
    Case(losses.ForwardCorrection, {"transition": 0.2}),
    Case(losses.BackwardCorrection, {"transition": 0.2}, bounded=False),
    Case(losses.StochasticSegmentationLoss, {"num_classes": CLASSES, "num_samples": 4}),
    Case(losses.RobustSegmentationLoss),
    Case(
        losses.RobustSegmentationLoss,
        {"pixel_risk": risk.CVaR(0.3), "image_risk": risk.EntropicRisk(1.0), "cost": "gce"},
    ),
    Case(
        losses.RobustSegmentationLoss,
        {
            "label_model": labels.DivergenceAmbiguity("tv", 0.2, stance="optimistic"),
            "pixel_risk": risk.DivergenceBall("kl", 0.1),
            "pixel_pool": "batch",
        },
    ),
    Case(
        losses.RobustSegmentationLoss,
        {"label_model": labels.SpatialWassersteinAmbiguity(1, 0.2), "cost": "mae"},
        places=True,
    ),
]
METRICS = [
    Case(metrics.Dice, {"num_classes": CLASSES}),
    Case(metrics.IoU, {"num_classes": CLASSES, "per_class": True}),
    Case(metrics.PixelAccuracy, {"num_classes": CLASSES}),
]
# Figures of a loss on a batch, which do not add up over batches: tested with the robust loss.
DIAGNOSTICS = (metrics.RiskFigure,)


@dataclass(frozen=True)
class Batch:
    """One batch: logits, and the mask in one of its forms."""

    y_pred: np.ndarray
    y_true: np.ndarray
    sample_weight: np.ndarray | None = None


def logits(rng: np.random.Generator, *shape: int, classes: int = CLASSES) -> np.ndarray:
    return rng.normal(0, 2, (*shape, classes)).astype("float32")


def ids(rng: np.random.Generator, *shape: int, low: int = -1) -> np.ndarray:
    return rng.integers(low, CLASSES, shape).astype("int16")


def batches() -> dict[str, Batch]:
    """Every form and every awkward content of a mask, on tiny tensors."""
    rng = np.random.default_rng(zlib.crc32(b"contract"))
    small = (2, 6, 5)
    soft = rng.dirichlet(np.ones(CLASSES), small).astype("float32")
    soft[0, :2] = 0.0
    return {
        "ids": Batch(logits(rng, *small), ids(rng, *small)),
        "ids with a last axis": Batch(logits(rng, *small), ids(rng, *small, 1)),
        "float ids": Batch(logits(rng, *small), ids(rng, *small).astype("float32")),
        "readers": Batch(logits(rng, *small), ids(rng, *small, 4)),
        "soft": Batch(logits(rng, *small), soft),
        "weights of images": Batch(logits(rng, *small), ids(rng, *small), np.array([1.0, 0.25])),
        "weights of pixels": Batch(
            logits(rng, *small), ids(rng, *small), rng.integers(0, 3, small).astype("float32")
        ),
        "3-D": Batch(logits(rng, 2, 3, 5, 4), ids(rng, 2, 3, 5, 4)),
        "3-D readers": Batch(logits(rng, 1, 3, 5, 4), ids(rng, 1, 3, 5, 4, 2)),
        "one pixel": Batch(logits(rng, 1, 1, 1), ids(rng, 1, 1, 1, low=1)),
        "odd and thin": Batch(logits(rng, 1, 1, 7), ids(rng, 1, 1, 7)),
        "binary logit": Batch(logits(rng, *small, classes=1), ids(rng, *small) % 2),
        "all background": Batch(logits(rng, *small), np.zeros(small, "int32")),
        "all foreground": Batch(logits(rng, *small), np.full(small, 2)),
        "all void": Batch(logits(rng, *small), np.full(small, -1)),
        "huge logits": Batch(1e30 * logits(rng, *small), ids(rng, *small)),
    }


# Losses ------------------------------------------------------------------------------------------


def value_and_gradient(loss: Callable[..., Any], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Value of the loss and its gradient to the predictions, on the backend in use."""
    if keras.backend.backend() == "jax":
        import jax

        value, gradient = jax.value_and_grad(
            lambda y_pred: loss(batch.y_true, y_pred, batch.sample_weight)
        )(batch.y_pred)
        return np.asarray(value), np.asarray(gradient)
    import tensorflow as tf

    y_pred = tf.constant(batch.y_pred)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = loss(batch.y_true, y_pred, batch.sample_weight)
    gradient = tape.gradient(value, y_pred)
    # A loss that nothing in the batch can change has no path to the predictions.
    return value.numpy(), np.zeros_like(batch.y_pred) if gradient is None else gradient.numpy()


def loss_is_finite(case: Case, batch: Batch) -> None:
    """Value and gradient are finite and the value is not negative, where the loss has a bound."""
    value, gradient = value_and_gradient(case.make(), batch)
    assert value.shape == ()
    assert np.isfinite(value)
    assert value >= -1e-6 or not case.bounded
    assert np.isfinite(gradient).all()


def loss_of_void_is_zero(case: Case) -> None:
    """With no label at all the loss is 0 and so is its gradient."""
    value, gradient = value_and_gradient(case.make(), batches()["all void"])
    assert value == 0.0
    assert not gradient.any()


def loss_reads_no_void_pixel(case: Case, rng: np.random.Generator) -> None:
    """What lies under void or under weight 0, NaN included, changes neither value nor gradient."""
    y_pred, y_true = logits(rng, 2, 6, 5), ids(rng, 2, 6, 5, low=0)
    hidden = rng.random((2, 6, 5)) < 0.3
    other, broken = y_true.copy(), y_pred.copy()
    other[hidden] = 77
    broken[hidden] = rng.choice([np.nan, np.inf, -np.inf, 1e30], (hidden.sum(), CLASSES))
    void = np.where(hidden, -1, y_true)
    weight = (~hidden).astype("float32")
    expected = value_and_gradient(case.make(), Batch(y_pred, void))
    for loss, batch in (
        (case.make(), Batch(broken, void)),
        (case.make(ignore_class=77), Batch(broken, other)),
        (case.make(), Batch(broken, other, weight)),
        (case.make(), Batch(broken, y_true, weight[..., None])),
    ):
        value, gradient = value_and_gradient(loss, batch)
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-8)
        assert not gradient[hidden].any()


def loss_is_as_if_void_were_cut_out(case: Case, rng: np.random.Generator) -> None:
    """An image with void pixels costs what the rest of it costs alone."""
    y_pred, y_true = logits(rng, 1, 40), ids(rng, 1, 40, low=0)
    hidden = rng.random((1, 40)) < 0.3
    if case.places:  # what is left keeps its neighbours
        hidden = np.arange(40)[None] >= 28
    alone = case.make()(y_true[~hidden][None], y_pred[~hidden][None])
    for mask, weight in ((np.where(hidden, -1, y_true), None), (y_true, ~hidden)):
        np.testing.assert_allclose(case.make()(mask, y_pred, weight), alone, rtol=1e-5)


def loss_shows_what_is_broken(case: Case, rng: np.random.Generator) -> None:
    """A NaN logit, or a class id that means nothing, makes the loss NaN: never a quiet number."""
    y_pred, y_true = logits(rng, 2, 4, 5), ids(rng, 2, 4, 5, low=0)
    y_true[0, 0, 0] = 1
    broken = y_pred.copy()
    broken[0, 2, 3, 1] = np.nan
    assert np.isnan(case.make()(y_true, broken))
    y_true[1, 0, 0] = CLASSES
    assert np.isnan(case.make()(y_true, y_pred))


def loss_ignores_the_scale_of_weights(case: Case, rng: np.random.Generator) -> None:
    """Weights are relative: twice all weights, same loss; (B,) is (B, *S) spread out."""
    y_pred, y_true = logits(rng, 2, 6, 5), ids(rng, 2, 6, 5)
    weight = np.array([0.5, 2.0], "float32")
    loss = case.make()
    expected = loss(y_true, y_pred, weight)
    spread = np.broadcast_to(weight[:, None, None], y_true.shape)
    for same in (2 * weight, spread, spread[..., None]):
        np.testing.assert_allclose(loss(y_true, y_pred, same), expected, rtol=1e-5)


def loss_descends(case: Case, rng: np.random.Generator) -> None:
    """A small step against the gradient lowers the loss by what the gradient says."""
    batch = Batch(logits(rng, 2, 5, 4), ids(rng, 2, 5, 4))
    loss = case.make()
    value, gradient = value_and_gradient(loss, batch)
    step = 1e-2 / np.linalg.norm(gradient)
    ends = [
        float(loss(batch.y_true, batch.y_pred + sign * step * gradient)) for sign in (1.0, -1.0)
    ]
    slope = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(slope, np.sum(gradient**2), rtol=2e-2)
    assert ends[1] < value


def loss_reductions_agree(case: Case, rng: np.random.Generator) -> None:
    """The sum is that of the unreduced values, and a batch of one image is its own mean."""
    y_pred, y_true = logits(rng, 1, 5, 4), ids(rng, 1, 5, 4)
    y_true[0, 0] = [0, 1, 2, 2]
    weight = rng.random((1, 5, 4)).astype("float32")
    by = {r: case.make(reduction=r)(y_true, y_pred, weight) for r in (None, "sum")}
    assert tuple(by[None].shape) == (1, 5, 4)
    np.testing.assert_allclose(by["sum"], ops.sum(by[None]), rtol=1e-5)
    mean = case.make()(y_true, y_pred, weight)
    np.testing.assert_allclose(by["sum"] / weight[y_true >= 0].sum(), mean, rtol=1e-5)
    unweighted = case.make(reduction=None)
    np.testing.assert_allclose(unweighted.call(y_true, y_pred), unweighted(y_true, y_pred))


def loss_takes_probabilities(case: Case, rng: np.random.Generator) -> None:
    """Probabilities with from_logits=False give what their logits give."""
    for classes in (1, CLASSES):
        y_pred = logits(rng, 2, 5, 4, classes=classes)
        y_true = ids(rng, 2, 5, 4) if classes > 1 else ids(rng, 2, 5, 4).clip(-1, 1)
        p = ops.softmax(y_pred) if classes > 1 else ops.sigmoid(y_pred)
        expected = case.make()(y_true, y_pred)
        found = case.make(from_logits=False)(y_true, p)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def loss_is_float32_inside(case: Case, rng: np.random.Generator) -> None:
    """Half-precision logits give the float32 loss of the same numbers; dtype sets the result's."""
    y_pred, y_true = logits(rng, 2, 9, 8), ids(rng, 2, 9, 8)
    for half in ("float16", "bfloat16"):
        rounded = ops.cast(y_pred, half)
        expected = case.make()(y_true, ops.cast(rounded, "float32"))
        found = case.make()(y_true, rounded)
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        found = case.make(dtype=half)(y_true, rounded)
        assert keras.backend.standardize_dtype(found.dtype) == half


def loss_is_the_same_compiled(case: Case, batch: Batch) -> None:
    """XLA gives the value and gradient of the eager loss."""
    import tensorflow as tf

    loss = case.make()

    @tf.function(jit_compile=True)
    def compiled(y_true: Any, y_pred: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = loss(y_true, y_pred, batch.sample_weight)
        return value, tape.gradient(value, y_pred)

    value, gradient = value_and_gradient(loss, batch)
    found = compiled(tf.constant(batch.y_true), tf.constant(batch.y_pred))
    np.testing.assert_allclose(found[0], value, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(found[1], gradient, rtol=2e-5, atol=1e-7)


# Metrics -----------------------------------------------------------------------------------------


def metric_value(metric: Any, batch: Batch) -> np.ndarray:
    metric.reset_state()
    metric.update_state(batch.y_true, batch.y_pred, batch.sample_weight)
    return np.asarray(metric.result())


def metric_streams(case: Case, rng: np.random.Generator) -> None:
    """Batches one by one give what they give together, and a reset forgets them."""
    y_pred, y_true = logits(rng, 4, 6, 5), ids(rng, 4, 6, 5)
    metric = case.make()
    together = metric_value(metric, Batch(y_pred, y_true))
    metric.reset_state()
    for start in (0, 1):
        metric.update_state(y_true[start::2], y_pred[start::2])
    np.testing.assert_allclose(metric.result(), together, rtol=1e-6)
    alone = metric_value(metric, Batch(y_pred[:1], y_true[:1]))
    np.testing.assert_array_equal(metric_value(metric, Batch(y_pred[:1], y_true[:1])), alone)


def metric_reads_no_void_pixel(case: Case, rng: np.random.Generator) -> None:
    """Void pixels and pixels of weight 0 are as if cut out."""
    y_pred, y_true = logits(rng, 1, 40), ids(rng, 1, 40, low=0)
    hidden = rng.random((1, 40)) < 0.3
    expected = metric_value(case.make(), Batch(y_pred[~hidden][None], y_true[~hidden][None]))
    other = np.where(hidden, 77, y_true)
    for metric, batch in (
        (case.make(), Batch(y_pred, np.where(hidden, -1, y_true))),
        (case.make(ignore_class=77), Batch(y_pred, other)),
        (case.make(), Batch(y_pred, other, (~hidden).astype("float32"))),
    ):
        np.testing.assert_allclose(metric_value(metric, batch), expected, rtol=1e-6)


def metric_of_void_is_undefined(case: Case) -> None:
    """With no label at all the result is NaN, and a later batch is counted as if alone."""
    metric, every = case.make(), batches()
    assert np.isnan(metric_value(metric, every["all void"])).all()
    metric.update_state(every["ids"].y_true, every["ids"].y_pred)
    found = np.asarray(metric.result())
    np.testing.assert_array_equal(found, metric_value(metric, every["ids"]))


def metric_takes_probabilities(case: Case, rng: np.random.Generator) -> None:
    """Probabilities give what their logits give, also for a binary output."""
    y_pred, y_true = logits(rng, 2, 6, 5), ids(rng, 2, 6, 5)
    expected = metric_value(case.make(), Batch(y_pred, y_true))
    p = np.asarray(ops.softmax(y_pred))
    np.testing.assert_array_equal(metric_value(case.make(), Batch(p, y_true)), expected)
    binary, y_true = logits(rng, 2, 6, 5, classes=1), ids(rng, 2, 6, 5).clip(-1, 1)
    two = {"num_classes": 2}
    pair = np.concatenate([np.zeros_like(binary), binary], -1)
    expected = metric_value(case.make(**two), Batch(pair, y_true))
    p = np.asarray(ops.sigmoid(binary))
    for metric, y_pred in ((case.make(**two), binary), (case.make(**two, from_logits=False), p)):
        np.testing.assert_array_equal(metric_value(metric, Batch(y_pred, y_true)), expected)


# Both --------------------------------------------------------------------------------------------


def config_round_trip(case: Case, batch: Batch) -> None:
    """The registered config gives back an equal object, its dtype and name included."""
    made = case.make(name="mine", dtype="float16", ignore_class=2)
    module = keras.metrics if isinstance(made, keras.metrics.Metric) else keras.losses
    again = module.deserialize(module.serialize(made))
    assert type(again) is case.kind
    assert again.get_config() == made.get_config()
    assert (again.name, again.dtype, again.ignore_class) == ("mine", "float16", 2)
    values = [
        metric_value(m, batch) if module is keras.metrics else m(batch.y_true, batch.y_pred)
        for m in (made, again)
    ]
    np.testing.assert_array_equal(*values)


# Backends ----------------------------------------------------------------------------------------


# Mostly one shape: JAX compiles every operation once for each.
PARITY = ("ids", "readers", "soft", "weights of pixels", "huge logits", "all void", "binary logit")


def all_results() -> dict[str, np.ndarray]:
    """Value and gradient of every loss, and value of every metric, on the batches of `PARITY`."""
    results, every = {}, batches()
    for name in PARITY:
        batch = every[name]
        classes = max(2, batch.y_pred.shape[-1])
        for case in LOSSES:
            value, gradient = value_and_gradient(case.make(), batch)
            results |= {f"{case} {name} value": value, f"{case} {name} gradient": gradient}
        for case in METRICS:
            metric = case.make(num_classes=classes)
            results[f"{case} {name}"] = metric_value(metric, batch)
    return results


def compiled_jax_results() -> dict[str, np.ndarray]:
    """Value and gradient of every loss on one batch, under `jax.jit`."""
    import jax

    batch, results = batches()["ids"], {}
    for case in LOSSES:
        call = jax.jit(jax.value_and_grad(partial(case.make(), batch.y_true)))
        value, gradient = call(batch.y_pred)
        results |= {f"{case} ids value": value, f"{case} ids gradient": gradient}
    return {key: np.asarray(value) for key, value in results.items()}


if __name__ == "__main__":
    # Run by the parity test with KERAS_BACKEND=jax: one process for all cases.
    np.savez(sys.argv[1], **all_results())
    np.savez(sys.argv[2], **compiled_jax_results())
