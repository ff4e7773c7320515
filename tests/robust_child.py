"""Trains plain Keras models with robust losses on one device and on two replicas.

Prints the largest difference of weights and reported losses for each loss.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_robustseg.labels import DivergenceAmbiguity
from keras_robustseg.losses import RobustSegmentationLoss
from keras_robustseg.risk import CVaR, DivergenceBall, EntropicRisk

LOSSES = {
    "image": lambda: RobustSegmentationLoss(image_risk=CVaR(0.4)),
    "pixels": lambda: RobustSegmentationLoss(pixel_risk=CVaR(0.2), pixel_pool="batch"),
    "ball": lambda: RobustSegmentationLoss(
        pixel_risk=DivergenceBall("kl", 0.2), pixel_pool="batch"
    ),
    "all": lambda: RobustSegmentationLoss(
        label_model=DivergenceAmbiguity("tv", 0.1, stance="optimistic"),
        pixel_risk=CVaR(0.5),
        image_risk=EntropicRisk(0.5),
    ),
    "alone": lambda: RobustSegmentationLoss(image_risk=CVaR(0.4), scope="replica"),
}


def train(strategy, make):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 6, 7, 1)).astype("float32")
    mask = rng.integers(-1, 2, (8, 6, 7)).astype("int32")
    weight = rng.uniform(0.5, 2.0, (8, 6, 7)).astype("float32")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        inputs = keras.Input((6, 7, 1))
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
        model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(x))
        model.compile(keras.optimizers.SGD(0.1), loss=make(), jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices((image, mask, weight)).batch(4, drop_remainder=True)
    history = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    return [*map(keras.ops.convert_to_numpy, model.weights), np.array(history)]


if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    one = tf.distribute.get_strategy()
    for name, make in LOSSES.items():
        pairs = zip(train(one, make), train(two, make), strict=True)
        print(f"{name} {max(np.abs(a - b).max() for a, b in pairs):.2e}", flush=True)
