"""Trains on one device or on two replicas and prints every variable."""

import keras
import numpy as np
import tensorflow as tf

from keras_robustseg.labels import Pencil
from keras_robustseg.losses import CrossEntropyDice
from keras_robustseg.training import RobustSegmenter


def tiny():
    image = keras.Input((6, 7, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    return keras.Model(image, keras.layers.Conv2D(2, 1)(x))


def train(strategy, method):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 6, 7, 1)).astype("float32")
    mask = rng.integers(0, 2, (8, 6, 7)).astype("int32")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        pencil = Pencil(warmup=0.0) if method == "PENCIL" else None
        shapes = [(6, 7)] * 8 if pencil else None
        model = RobustSegmenter(tiny(), pencil, label_shapes=shapes)
        loss = None if pencil else CrossEntropyDice()
        model.compile(keras.optimizers.SGD(0.1), loss=loss)
    inputs = {"image": image, "sample_id": np.arange(8, dtype="int32")}
    data = tf.data.Dataset.from_tensor_slices((inputs, mask)).batch(4, drop_remainder=True)
    history = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    return [*map(keras.ops.convert_to_numpy, model.variables), np.array(history)]


if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    one = tf.distribute.get_strategy()
    for method in ("PENCIL", "CE"):
        pairs = zip(train(one, method), train(two, method), strict=True)
        difference = max(np.abs(a - b).max() for a, b in pairs)
        print(f"{method} {difference:.2e}")
