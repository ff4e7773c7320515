"""A training step that is not finite changes nothing: it is skipped and counted.

One NaN pixel is enough to turn every weight of a network into NaN in a single step, and a label
out of range does the same once XLA has removed the error that TensorFlow raises on a CPU.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, tree

from keras_robustseg.losses import replica_count
from keras_robustseg.training._adversary import attacked


def train_step_tensorflow(model: Any, data: Any) -> dict[str, Any]:
    """Run Keras' training step, but apply it only where loss and gradients are finite."""
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if model.objective is not None:
        model.objective.read_ahead(x)  # a store on a disk reads while the network runs
    x = attacked(model, x, y, sample_weight)
    statistics = model.statistics
    before = [tf.identity(v.value) for v in statistics]
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x, y, y_pred, sample_weight, training=True)
        scaled = model.optimizer.scale_loss(loss)
    weights = model.trainable_weights
    gradients = tape.gradient(scaled, weights)
    finite, ok = _verdict(model, loss, gradients)
    _apply_if(ok, model.optimizer, gradients, weights)
    for variable, old in zip(statistics, before, strict=True):
        variable.assign(tf.where(finite, variable.value, old))
    _update_labels(model, finite)
    model.skipped_steps.assign_add(tf.cast(tf.logical_not(ok), "int32"))
    _track_loss(model, tf.where(ok, loss, tf.zeros_like(loss)), x)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _update_labels(model: Any, finite: Any) -> None:
    """Move label rows and the teacher, both by what this step has found, then count the step."""
    move = model.pending.__dict__.pop("labels", None)
    if move is not None:
        move(finite)
    if model.teacher is not None:
        model.teacher.follow(model.step.value, finite)
    model.step.assign_add(1)


def _track_loss(model: Any, loss: Any, x: Any) -> None:
    images = ops.shape(tree.flatten(x)[0])[0]
    model._loss_tracker.update_state(loss * replica_count(), sample_weight=images)


def _verdict(model: Any, loss: Any, gradients: list[Any]) -> tuple[Any, Any]:
    """Return whether loss and gradients are finite, and whether the optimizer may have them.

    A loss-scaling optimizer looks for overflowing gradients itself and lowers the scale, which is
    part of its work and no broken step. What else learns from the step stays as it was.
    """
    import tensorflow as tf

    scaling = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    sums = [tf.cast(tf.reduce_sum(g), "float32") for g in gradients if g is not None]
    loss_finite = _everywhere(tf.math.is_finite(loss))
    finite = _everywhere(tf.reduce_all(tf.math.is_finite(tf.stack([loss, *sums]))))
    return finite, loss_finite if scaling else finite


def _everywhere(ok: Any) -> Any:
    """Whether this holds on all replicas."""
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is not None and replica.num_replicas_in_sync > 1:
        bad = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(tf.logical_not(ok), "float32"))
        return tf.equal(bad, 0.0)
    return ok


def _apply_if(ok: Any, optimizer: Any, gradients: list[Any], weights: list[Any]) -> None:
    import tensorflow as tf

    pairs = [(g, v) for g, v in zip(gradients, weights, strict=True) if g is not None]
    if not pairs:
        return  # a frozen network: only label rows learn
    if replica_count() > 1:
        # Optimizers synchronise replicas, which is not allowed inside a condition: a zero
        # gradient is the nearest thing to no step.
        optimizer.apply_gradients([(tf.where(ok, g, tf.zeros_like(g)), v) for g, v in pairs])
        return
    if not optimizer.built:
        optimizer.build(weights)

    def apply() -> Any:
        optimizer.apply_gradients(pairs)
        return tf.constant(True)

    tf.cond(ok, apply, lambda: tf.constant(False))


def train_step_jax(model: Any, state: Any, data: Any) -> tuple[dict[str, Any], Any]:
    """The same on JAX, where a step is a function from state to state."""
    import jax

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    weights, rest, slots, metrics = state
    gradient = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)
    (_, (loss, y_pred, new_rest, new_metrics)), gradients = gradient(
        weights, rest, metrics, x, y, sample_weight, training=True, optimizer_variables=slots
    )
    finite, ok = _verdict_jax(model, loss, gradients)
    new_weights, new_slots = model.optimizer.stateless_apply(slots, gradients, weights)
    new_weights, new_slots = _chosen(ok, (new_weights, new_slots), (weights, slots))
    logs, new_metrics = model._update_metrics_variables(
        new_metrics, loss, x, y, y_pred, sample_weight
    )
    new_rest = _follow_jax(model, rest, new_rest, new_weights)
    new_rest = _count_jax(model, rest, new_rest, _chosen(finite, new_rest, rest), ok)
    return logs, (new_weights, new_rest, new_slots, _chosen(ok, new_metrics, metrics))


def _verdict_jax(model: Any, loss: Any, gradients: list[Any]) -> tuple[Any, Any]:
    """As `_verdict`."""
    import jax.numpy as jnp

    scaling = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    sums = [jnp.sum(g).astype("float32") for g in gradients if g is not None]
    finite = jnp.isfinite(jnp.stack([loss, *sums])).all()
    return finite, jnp.isfinite(loss) if scaling else finite


def _chosen(ok: Any, new: Any, old: Any) -> Any:
    return tree.map_structure(lambda a, b: ops.where(ok, a, b), new, old)


def _follow_jax(model: Any, old: Any, new: Any, new_weights: Any) -> Any:
    """Put the teacher's next averages among the new values of what is not trained."""
    if model.teacher is None:
        return new
    place = {id(v): n for n, v in enumerate(model.non_trainable_variables)}
    values = {id(v): value for v, value in zip(model.trainable_variables, new_weights, strict=True)}
    values.update({key: new[n] for key, n in place.items()})
    new, step = list(new), old[place[id(model.step)]]
    for own, value in model.teacher.averages(step, lambda v: values[id(v)]):
        new[place[id(own)]] = value
    return new


def _count_jax(model: Any, old: Any, new: Any, kept: Any, ok: Any) -> Any:
    """Let the counters, and what solvers report, go on in a step that is left out."""
    kept = list(kept)
    place = {id(v): n for n, v in enumerate(model.non_trainable_variables)}
    steps, skipped = place[id(model.step)], place[id(model.skipped_steps)]
    for going in (steps, *(place[id(v)] for v in model.certificates)):
        kept[going] = new[going]
    kept[skipped] = old[skipped] + ops.cast(ops.logical_not(ok), "int32")
    return kept
