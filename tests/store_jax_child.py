"""Rows, teacher and the finite guard, on the backend that KERAS_BACKEND names.

Prints one line of JSON with what `test_training_stores` compares with TensorFlow.
"""

import json

import keras
import numpy as np
from keras import ops

from keras_robustseg.labels import DiskLabelStore, Pencil
from keras_robustseg.training import RobustSegmenter


@keras.saving.register_keras_serializable("tests")
class Root(keras.layers.Layer):
    """x + sqrt(b) with a weight b = 0: finite, with an infinite slope in b."""

    def build(self, shape):
        self.b = self.add_weight(name="b", shape=(), initializer="zeros")

    def call(self, x):
        return x + ops.sqrt(self.b) * ops.array([0.0, 1.0])


def plain(**options):
    """The published method: every label may move, and every image counts alike."""
    return Pencil(presence=0.0, image_weights=0.0, mass_floor=0.0, **options)


def network(broken=False):
    """Two layers with fixed weights, and batch normalisation."""
    image = keras.Input((6, 7, 1))
    x = keras.layers.BatchNormalization(momentum=0.8)(image)
    x = keras.layers.Conv2D(2, 1)(x)
    model = keras.Model(image, Root()(x) if broken else x)
    kernel = next(w for w in model.trainable_weights if len(w.shape) == 4)
    kernel.assign(np.linspace(-1, 1, 2).reshape(1, 1, 1, 2))
    return model


def trained(pencil, broken=False, steps=3):
    """A model after a few steps on fixed data."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 6, 7, 1)).astype("float32")
    mask = rng.integers(0, 2, (4, 6, 7)).astype("int32")
    model = RobustSegmenter(network(broken), pencil, label_shapes=[(6, 7)] * 4)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    model.plan_phases(100)
    for _ in range(steps):
        loss = model.train_on_batch({"image": image, "sample_id": np.arange(4)}, mask)
    return model, np.asarray(loss).reshape(-1)[0]


def numbers(variables):
    """All entries of some variables."""
    return [float(v) for w in variables for v in ops.convert_to_numpy(w).reshape(-1)]


def main():
    """Everything as one dictionary."""
    result = {}
    for storage in ("float32", "float16", "uint8"):
        model, _ = trained(plain(warmup=0.0, storage=storage))
        result[storage] = [float(v) for i in range(4) for v in model.label_store.sample(i).ravel()]
    model, loss = trained(plain(warmup=0.0, store="teacher"))
    result["teacher"] = numbers(model.teacher.weights)
    result["network"] = numbers(model.network.weights)
    model, loss = trained(plain(warmup=0.0), broken=True)
    result["broken"] = [float(loss), int(model.skipped_steps), int(model.step)]
    result["broken rows"] = float(max(np.abs(model.label_store.sample(i)).max() for i in range(4)))
    result["broken weights"] = numbers(model.network.weights)
    try:
        DiskLabelStore([(2, 2)], 2)
        result["disk"] = "made"
    except ValueError as error:
        result["disk"] = str(error)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
