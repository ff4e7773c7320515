"""A training step that is not finite changes nothing: it is skipped and counted.

One NaN pixel is enough to turn every weight of a network into NaN in a single step, and a label
out of range does the same once XLA has removed the error that TensorFlow raises on a CPU.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, tree

from keras_robustseg.losses import replica_count


def train_step_tensorflow(model: Any, data: Any) -> dict[str, Any]:
    """Run Keras' training step, but apply it only where loss and gradients are finite."""
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    statistics = model.network.non_trainable_weights
    before = [tf.identity(v.value) for v in statistics]
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x, y, y_pred, sample_weight, training=True)
        scaled = model.optimizer.scale_loss(loss)
    weights = model.trainable_weights
    gradients = tape.gradient(scaled, weights)
    ok = _all_finite(model, loss, gradients)
    _apply_if(ok, model.optimizer, gradients, weights)
    for variable, old in zip(statistics, before, strict=True):
        variable.assign(tf.where(ok, variable.value, old))
    model.skipped_steps.assign_add(tf.cast(tf.logical_not(ok), "int32"))
    _track_loss(model, tf.where(ok, loss, tf.zeros_like(loss)), x)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _track_loss(model: Any, loss: Any, x: Any) -> None:
    images = ops.shape(tree.flatten(x)[0])[0]
    model._loss_tracker.update_state(loss * replica_count(), sample_weight=images)


def _all_finite(model: Any, loss: Any, gradients: list[Any]) -> Any:
    import tensorflow as tf

    # A loss-scaling optimizer looks for overflowing gradients itself and lowers the scale.
    scaling = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    checked = [] if scaling else [tf.reduce_sum(g) for g in gradients if g is not None]
    ok = tf.reduce_all(
        tf.math.is_finite(tf.stack([tf.cast(v, "float32") for v in [loss, *checked]]))
    )
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
    logs, new = keras.Model.train_step(model, state, data)
    import jax.numpy as jnp

    ok = jnp.stack([jnp.all(jnp.isfinite(v)) for v in new[0]]).all()
    kept = tree.map_structure(lambda a, b: jnp.where(ok, a, b), new, state)
    names = [v.path for v in model.non_trainable_variables]
    counter = names.index(model.skipped_steps.path)
    kept[1][counter] = state[1][counter] + jnp.where(ok, 0, 1).astype("int32")
    return logs, kept
