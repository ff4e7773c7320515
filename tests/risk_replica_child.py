"""Prints how far risk and gradient over two replicas are from those on one device."""

import sys

import numpy as np
import tensorflow as tf

from keras_robustseg import risk

MEASURES = [
    risk.CVaR(0.3),
    risk.CVaR(0.3, stance="optimistic"),
    risk.DivergenceBall("tv", 0.2),
    risk.DivergenceBall("kl", 0.3),
    risk.DivergenceBall("jeffreys", 0.3),
    risk.DivergencePenalty("chi2", 0.5),
    risk.MeanSemideviation(0.5),
    risk.SpectralRisk([0.2, 0.3, 0.5]),
]


def part(values, context):
    """The first 5 losses for one replica, the other 3 for the other."""
    index = context.replica_id_in_sync_group
    return tf.cond(tf.equal(index, 0), lambda: values[:5], lambda: values[5:])


def on_replica(measure, losses, weights):
    context = tf.distribute.get_replica_context()
    mine = part(losses, context)
    with tf.GradientTape() as tape:
        tape.watch(mine)
        value = measure(mine, part(weights, context), reduce=risk.AcrossReplicas())
    return value, tape.gradient(value, mine)


if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    rng = np.random.default_rng(0)
    losses = tf.constant(rng.exponential(size=8).astype("float32"))
    weights = tf.constant(rng.random(8).astype("float32") * (np.arange(8) != 6))
    for measure in MEASURES[: int(sys.argv[1])]:
        run = tf.function(lambda m=measure: strategy.run(on_replica, (m, losses, weights)))
        values, parts = (strategy.experimental_local_results(x) for x in run())
        q = measure.worst_case_weights(losses, weights)
        off = [
            *(abs(v - measure(losses, weights)) for v in values),
            *abs(np.concatenate(parts) - q),
        ]
        print(measure, float(max(off)))
