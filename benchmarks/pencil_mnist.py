"""PENCIL on the task it was made for, one label an image: digits whose labels are partly wrong.

    python benchmarks/pencil_mnist.py --data mnist10k.npz [--seeds 5] [--epochs 40] [--threads 1]

The file has `image` (N, 28, 28) uint8, `label` (N,), `split` (N,) (0 train, 1 validation, 2 test)
and 10x10 matrices P(given label | true label): `T_asym40` and `cifar10n_worse_label`, the second
counted from people's labels of other images. Symmetric noise of rate r takes one of the other nine
digits. Prints, for cross-entropy and PENCIL with the same network, batches and steps, means and
standard deviations over the seeds (initial weights, noise and order) of the test accuracy at the
last and at the best epoch (the best chosen on the test set: an oracle), of the share of wrong
training labels that the network reproduces, and of the accuracy of given and corrected labels.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", type=Path, default=Path("mnist10k.npz"), help="the digits")
parser.add_argument("--seeds", type=int, default=5)
parser.add_argument("--first-seed", type=int, default=0)
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--cells", nargs="*", default=None)
parser.add_argument("--threads", type=int, default=1)
arguments = parser.parse_args()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_robustseg.labels import Pencil  # noqa: E402
from keras_robustseg.losses import CrossEntropy  # noqa: E402
from keras_robustseg.training import RobustSegmenter  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)

BATCH, CLASSES = 128, 10


def symmetric(rate: float) -> np.ndarray:
    """P(given | true) with `rate` spread evenly over the wrong classes."""
    matrix = np.full((CLASSES, CLASSES), rate / (CLASSES - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def cells(data) -> dict[str, np.ndarray]:
    """The noise matrices by name."""
    matrices = {f"symmetric {rate:.0%}": symmetric(rate) for rate in (0.2, 0.4, 0.6)}
    matrices["asymmetric 40%"] = data["T_asym40"]
    matrices["people (CIFAR-10N worst)"] = data["cifar10n_worse_label"]
    return matrices


def noisy(labels: np.ndarray, matrix: np.ndarray, seed: int) -> np.ndarray:
    """One given label for each true one."""
    rng = np.random.default_rng([seed, 1])
    edges = np.cumsum(matrix / matrix.sum(1, keepdims=True), axis=1)[labels]
    given = (rng.random((len(labels), 1)) > edges).sum(1)
    return np.minimum(given, CLASSES - 1).astype("int32")


def network() -> keras.Model:
    """A perceptron with two hidden layers, which can learn any labels by heart."""
    image = keras.Input((784,))
    x = image
    for _ in range(2):
        x = keras.layers.Dense(256, activation="relu")(x)
    return keras.Model(image, keras.layers.Dense(CLASSES)(x))


def pencil() -> Pencil:
    """The published method, with one setting for all cells."""
    published = {"presence": 0.0, "image_weights": 0.0, "mass_floor": 0.0}
    return Pencil(flip_margin=0.2, label_rate=1.0, warmup=0.15, finetune=0.25, **published)


def train(images, given, test, seed: int, label_model: Pencil | None):
    """Train on given labels; return the trainer and the test accuracy of every epoch."""
    keras.utils.set_random_seed(seed)
    steps = len(images) // BATCH
    shapes = None if label_model is None else [()] * len(images)
    model = RobustSegmenter(network(), label_model, label_shapes=shapes)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        loss=CrossEntropy() if label_model is None else None,
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        steps_per_execution=steps,
    )
    ids = np.arange(len(images), dtype="int32")
    order = tf.data.Dataset.range(len(images)).shuffle(len(images), seed=seed)
    table = [tf.constant(values) for values in (images, ids, given)]

    def take(rows):
        image, number, label = (tf.gather(values, rows) for values in table)
        return {"image": image, "sample_id": number}, label

    data = order.batch(BATCH, drop_remainder=True).map(take)
    options = {"validation_data": test, "validation_batch_size": 1250, "verbose": 0}
    options["shuffle"] = False  # the data set does
    history = model.fit(data, epochs=arguments.epochs, **options).history
    return model, np.array(history["val_accuracy"])


def corrected(model: RobustSegmenter, given: np.ndarray) -> np.ndarray:
    """The class that each label distribution says."""
    if model.label_store is None:
        return given
    offsets = keras.ops.convert_to_numpy(model.label_store.delta)
    start = model.label_model.initial_logit * np.eye(CLASSES)[given]
    start[:, 1:] += offsets
    return start.argmax(-1)


def figures(images, labels, given, test, seed: int, label_model: Pencil | None) -> list[float]:
    """Last, best, reproduced wrong labels, accuracy of the labels."""
    model, accuracy = train(images, given, test, seed, label_model)
    said = model.network.predict(images, batch_size=2048, verbose=0).argmax(-1)
    wrong = given != labels
    reproduced = (said[wrong] == given[wrong]).mean()
    kept = (corrected(model, given) == labels).mean()
    return [accuracy[-1], accuracy.max(), reproduced, kept]


def main() -> None:
    """Print a row for every noise and method."""
    data = np.load(arguments.data)
    images = data["image"].reshape(-1, 784).astype("float32") / 255
    labels, split = data["label"].astype("int32"), data["split"]
    test = (images[split == 2], labels[split == 2])
    images, labels = images[split == 0], labels[split == 0]
    head = ("noise", "method", "last", "best", "gap", "wrong reproduced", "labels right")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    for name, matrix in cells(data).items():
        if arguments.cells and name not in arguments.cells:
            continue
        for method in ("cross-entropy", "PENCIL"):
            rows = []
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                given = noisy(labels, matrix, seed)
                label_model = pencil() if method == "PENCIL" else None
                rows.append(figures(images, labels, given, test, seed, label_model))
            last, best, reproduced, kept = np.mean(rows, axis=0)
            spread = np.std(rows, axis=0, ddof=1 if len(rows) > 1 else 0)
            columns = [
                f"{last:.3f} ± {spread[0]:.3f}",
                f"{best:.3f}",
                f"{best - last:.3f}",
                f"{reproduced:.3f}",
                f"{kept:.3f}",
            ]
            print("| " + " | ".join([name, method, *columns]) + " |", flush=True)


main()
