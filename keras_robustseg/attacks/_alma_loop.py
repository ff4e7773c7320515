"""The iteration of ALMA prox: an augmented Lagrangian per pixel, a proximal step per image."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from keras_robustseg.attacks._alma_settings import AlmaSettings
from keras_robustseg.attacks._logit_ratio import logit_ratio, scale_of
from keras_robustseg.attacks._penalty import penalty_gradient
from keras_robustseg.attacks._prox import PROX, norms, searched_prox_linf
from keras_robustseg.attacks._scene import Scene, loop, reached
from keras_robustseg.attacks._success import flipped, share

# Beyond this the square of rho leaves float32.
_LARGEST_PENALTY = {"float32": 1e8, "float64": 1e30}
_SMALLEST_MULTIPLIER = 1e-12
_SMALLEST_METRIC = 1e-8
# The norm that is minimised is n^power times the one asked for: n values pull together, and must
# not outweigh the constraints from the beginning.
_NORM_POWER = {"linf": 0.0, "l1": -0.5, "l2sq": -0.5}


class Best(NamedTuple):
    """The smallest successful perturbation; before the first success the one that flips most."""

    delta: Any
    norm: Any
    rate: Any
    found: Any
    step_found: Any


class State(NamedTuple):
    """What one iteration hands to the next. Perturbations are (B, n), pixels (B, P), rest (B,)."""

    delta: Any
    square: Any
    multiplier: Any
    penalty: Any
    previous: Any
    was_flipped: Any
    weight: Any
    best: Best
    first_gradient: Any


class Task(NamedTuple):
    """What does not change in a run."""

    scene: Scene
    steps: int
    norm: str
    penalty_grad: str
    settings: AlmaSettings
    scale: Any

    @property
    def dtype(self) -> Any:
        """Type of all numbers."""
        return self.scene.images.dtype

    @property
    def width(self) -> float:
        """Width of the bounds: steps and norms of the iteration are in this unit."""
        return self.scene.width

    def box(self) -> tuple[Any, Any]:
        """Return the bounds of the perturbation, (B, n)."""
        images, (low, high) = self.scene.images, self.scene.bounds
        flat = tf.reshape(images, (images.shape[0], -1))
        return (low - flat) / self.width, (high - flat) / self.width


def alma_loop(scene: Scene, *, trace: bool, **static: Any) -> dict[str, Any]:
    """Run ALMA prox; the static arguments are the fields of `Task`.

    Returns:
        The best "delta" (B, *S, F), its "step_found", the "first_gradient" at its largest and,
        with `trace`, figures of each iteration (steps, B).
    """
    task = Task(scene, scale=scale_of(scene), **static)
    records = _records(task) if trace else {}

    def step(i: Any, now: tuple) -> tuple:
        state, figures = _step(task, i, now[0])
        return state, {k: now[1][k].write(i, figures[k]) for k in records}

    state, records = loop(step, (_start(task), records), task.steps)
    return {
        "delta": tf.reshape(state.best.delta, scene.images.shape) * task.width,
        "step_found": tf.where(state.best.found, state.best.step_found, -1),
        "first_gradient": state.first_gradient,
        **{name: record.stack() for name, record in records.items()},
    }


_FIGURES = (
    "linf", "apsr", "best_linf", "best_apsr", "const", "mu", "rho", "w", "lam", "H_mean",
    "H_min", "H_max",
)  # fmt: skip


def _records(task: Task) -> dict[str, Any]:
    return {name: tf.TensorArray(task.dtype, task.steps) for name in _FIGURES}


def _start(task: Task) -> State:
    images, labels, settings = task.scene.images, task.scene.labels, task.settings
    count = images.shape[0]
    flat = tf.zeros((count, images.shape[1:].num_elements()), task.dtype)
    pixel, image = tf.zeros_like(labels, task.dtype), tf.zeros((count,), task.dtype)
    never = tf.zeros((count,), tf.bool)
    best = Best(flat, image + float("inf"), image, never, tf.zeros((count,), tf.int32))
    best = best._replace(step_found=best.step_found + task.steps // 2)
    return State(
        flat,
        flat,
        pixel + settings.multiplier,
        pixel + settings.penalty,
        pixel,
        tf.zeros_like(task.scene.valid),
        image + 1,
        best,
        image,
    )


def _step(task: Task, i: Any, state: State) -> tuple[State, dict[str, Any]]:
    scene, settings = task.scene, task.settings
    moved = scene.images + task.width * tf.reshape(state.delta, scene.images.shape)
    with tf.GradientTape() as tape:
        tape.watch(moved)
        logits = scene.network.pixels(moved)
        ratio = logit_ratio(
            logits, scene.labels, scene.targeted, tolerance=settings.tolerance, scale=task.scale
        )
    hits = flipped(logits, scene.labels, scene.targeted)
    rate = share(hits, scene.valid, task.dtype)
    success = rate >= scene.success_rate
    size = norms(state.delta, task.norm)
    best = _track(task, i, state, size, rate, success)
    weight = _reweighted(settings, state.weight, success)
    constraint = weight[:, None] * ratio
    active = _active(task, i, constraint)
    state = _penalised(task, i, state, constraint, active, state.was_flipped | hits)
    slope = penalty_gradient(constraint, state.penalty, state.multiplier, task.penalty_grad)
    slope = tf.where(active, slope * weight[:, None], tf.zeros_like(slope))
    gradient = reached(tape.gradient(ratio, moved, output_gradients=slope))
    gradient = task.width * tf.reshape(gradient, state.delta.shape)
    rate_now = _learning_rate(task, i, best.step_found)
    delta, square, metric = _moved(task, i, state, gradient, rate_now)
    first = tf.where(i == 0, tf.reduce_max(tf.abs(gradient), -1), state.first_gradient)
    state = state._replace(
        delta=delta, square=square, weight=weight, best=best, first_gradient=first
    )
    return state, _figures(task, state, size, rate, constraint, rate_now, metric)


def _track(task: Task, i: Any, state: State, size: Any, rate: Any, success: Any) -> Best:
    best = state.best
    closer = (size <= best.norm) & success
    nearer = ~best.found & (rate >= tf.minimum(best.rate, task.scene.success_rate))
    better = closer | nearer
    newly = ~best.found & success & (i < task.steps // 2)
    return Best(
        tf.where(better[:, None], state.delta, best.delta),
        tf.where(better, size, best.norm),
        tf.where(better, rate, best.rate),
        best.found | success,
        tf.where(newly, i, best.step_found),
    )


def _reweighted(settings: AlmaSettings, weight: Any, success: Any) -> Any:
    """Weigh the constraints of an image less after a success, more after a failure."""
    one = tf.ones_like(weight)
    change = tf.where(success, one + settings.weight_change, one - settings.weight_change)
    return tf.clip_by_value(weight / change, settings.least_weight, 1)


def _active(task: Task, i: Any, constraint: Any) -> Any:
    """Valid pixels without the worst that need not be flipped; their number grows to the end."""
    allowed, valid = 1 - task.scene.success_rate, task.scene.valid
    counts = tf.reduce_sum(tf.cast(valid, task.dtype), -1)
    progress = tf.cast(i, task.dtype) / max(task.steps - 1, 1)
    dropped = tf.cast(tf.floor(allowed * counts * progress), tf.int32)
    lowest = tf.constant(-float("inf"), task.dtype)
    worst = tf.math.top_k(
        tf.where(valid, constraint, lowest), int(allowed * valid.shape[1]) + 1
    ).values
    limit = tf.gather(worst, tf.maximum(dropped - 1, 0)[:, None], batch_dims=1)
    return valid & ((constraint <= limit) | (dropped == 0)[:, None])


def _penalised(
    task: Task, i: Any, state: State, constraint: Any, active: Any, was_flipped: Any
) -> State:
    """Update rho at the checks and mu by a moving average."""
    settings = task.settings
    check = tf.equal((i + 1) % settings.check_every, 0) & (i > 0)
    counted = tf.where(active, constraint, tf.zeros_like(constraint))
    improved = counted <= settings.improvement * state.previous
    grown = tf.minimum(settings.growth * state.penalty, _LARGEST_PENALTY[task.dtype.name])
    penalty = tf.where(check & ~(was_flipped | improved), grown, state.penalty)
    slope = penalty_gradient(constraint, penalty, state.multiplier, task.penalty_grad)
    slope = tf.where(active, slope, tf.zeros_like(slope))
    mixed = settings.smoothing * state.multiplier + (1 - settings.smoothing) * slope
    mixed = tf.clip_by_value(mixed, _SMALLEST_MULTIPLIER, 1)
    return state._replace(
        penalty=penalty,
        multiplier=tf.where(i > 0, mixed, state.multiplier),
        previous=tf.where(check | tf.equal(i, 0), constraint, state.previous),
        was_flipped=was_flipped & ~check,
    )


def _learning_rate(task: Task, i: Any, step_found: Any) -> Any:
    """Hyperbolic decay that begins with the first success, or at half time."""
    settings = task.settings
    left = tf.cast(tf.maximum(task.steps - step_found, 1), task.dtype)
    since = tf.cast(tf.maximum(i - step_found, 0), task.dtype)
    reduction = settings.learning_rate_reduction
    tangent = reduction / (1 - reduction) * left
    return settings.learning_rate * tangent / (since + tangent)


def _moved(task: Task, i: Any, state: State, gradient: Any, rate: Any) -> tuple[Any, Any, Any]:
    """Forward-backward step in the metric of the root mean square gradients."""
    smoothing = task.settings.smoothing
    square = smoothing * state.square + (1 - smoothing) * gradient**2
    seen = 1 - tf.pow(tf.constant(smoothing, task.dtype), tf.cast(i + 1, task.dtype))
    metric = tf.maximum(tf.sqrt(square / seen), _SMALLEST_METRIC)
    step = rate[:, None]
    forward = state.delta - step * gradient / metric
    pull = step * forward.shape[-1] ** _NORM_POWER[task.norm]
    # In float32 a search on the objective ends far from the minimiser.
    as_published = task.settings.search == "ternary", task.norm == "linf", task.dtype == tf.float64
    prox = searched_prox_linf if all(as_published) else PROX[task.norm]
    return prox(forward, pull, metric, *task.box()), square, metric


def _figures(
    task: Task, state: State, size: Any, rate: Any, constraint: Any, step: Any, metric: Any
) -> dict[str, Any]:
    scene = task.scene
    count = tf.maximum(tf.reduce_sum(tf.cast(scene.valid, task.dtype), -1), 1)

    def mean(values: Any) -> Any:
        return scene.total(values) / count

    return {
        "linf": size,
        "apsr": rate,
        "best_linf": state.best.norm,
        "best_apsr": state.best.rate,
        "const": mean(constraint),
        "mu": mean(state.multiplier),
        "rho": mean(state.penalty),
        "w": state.weight,
        "lam": step,
        "H_mean": tf.reduce_mean(metric, -1),
        "H_min": tf.reduce_min(metric, -1),
        "H_max": tf.reduce_max(metric, -1),
    }
