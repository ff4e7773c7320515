"""Cost of a PENCIL step against a cross-entropy step of the same network, and of the input.

    python benchmarks/steps.py [--rounds 15] [--steps 4] [--threads 1] [--cpu] [--sizes 64 128]
                               [--parts stores rows input]

Prints, for each size, the interleaved ratio (median, and the quartiles of the rounds) of the time
of a training step with each store to one without a label model; the same with 100 and with 10,000
rows; and the share of an epoch that the training step spends waiting for the pipeline.
"""

from __future__ import annotations

import argparse
import os
import time

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--threads", type=int, default=0)
parser.add_argument("--cpu", action="store_true", help="CPU time, for a machine that others use")
parser.add_argument("--sizes", type=int, nargs="*", default=[64, 128])
parser.add_argument("--parts", nargs="*", default=["stores", "rows", "input"])
arguments = parser.parse_args()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_robustseg.data import Augment, Example, Ingest, Pipeline, Sample, Source  # noqa: E402
from keras_robustseg.labels import Pencil  # noqa: E402
from keras_robustseg.losses import CrossEntropy, CrossEntropyDice  # noqa: E402
from keras_robustseg.models import unet  # noqa: E402
from keras_robustseg.training import RobustSegmenter  # noqa: E402

if arguments.threads:
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)

# With --cpu, what a store's background thread does counts as if nothing ran beside it.
clock = time.process_time if arguments.cpu else time.perf_counter

SIZES = [(64, 1, 16, 16), (128, 3, 8, 32)]  # side, channels, batch, width of the first level
# The published method: what protects small objects is measured by itself.
PUBLISHED = {"warmup": 0.0, "presence": 0.0, "image_weights": 0.0, "mass_floor": 0.0}
STORES = {
    "device": {},
    "device, float16": {"storage": "float16"},
    "device, uint8": {"storage": "uint8"},
    "disk": {"store": "disk"},
    "disk, uint8": {"store": "disk", "storage": "uint8"},
    "none": {"store": "none"},
    "teacher": {"store": "teacher"},
    "device, all defaults but the warm-up": {
        "presence": 0.3,
        "image_weights": 1.0,
        "mass_floor": 0.3,
    },
}


def trainer(size, rows: int | None, loss=None, region: float = 0.0, **options) -> RobustSegmenter:
    """A U-Net of four resolutions with (rows) or without (None) a label model."""
    side, channels, _, width = size
    network = unet((side, side, channels), 2, width=width, depth=4)
    if rows is None:
        model = RobustSegmenter(network)
    else:
        pencil, shapes = Pencil(**{**PUBLISHED, **options}), [(side, side)] * rows
        model = RobustSegmenter(network, pencil, label_shapes=shapes, region_weight=region)
        model.plan_phases(10**6)
        if pencil.store == "device":
            # Memory that was never written is not there yet: its first touch is no cost of a step.
            model.label_store.delta.assign(model.label_store.delta + 0)
    model.compile(keras.optimizers.Adam(1e-3), loss=loss)
    return model


def stepper(model: RobustSegmenter, size, rows: int | None):
    """A function that runs n steps on batches of random rows."""
    side, channels, batch, _ = size
    rng = np.random.default_rng(0)
    image = rng.normal(size=(batch, side, side, channels)).astype("float32")
    mask = tf.constant(rng.integers(0, 2, (batch, side, side)).astype("int32"))
    step = tf.function(model.train_step, reduce_retracing=True)
    grid = np.arange(side * side, dtype="int32").reshape(side, side)

    def inputs():
        if rows is None:
            return tf.constant(image)
        ids = rng.choice(rows, batch, replace=False).astype("int32")
        turned = np.stack([np.rot90(grid, k % 4) + i * side * side for k, i in enumerate(ids)])
        return {
            "image": tf.constant(image),
            "sample_id": tf.constant(ids),
            "pixel_index": tf.constant(turned[..., None]),
        }

    def run(count: int) -> float:
        batches = [inputs() for _ in range(count)]
        begun = clock()
        for one in batches:
            step((one, mask))
        return (clock() - begun) / count

    run(3)
    return run


def paired(a, b) -> str:
    """Median and quartiles of time(a) / time(b), measured in turn."""
    ratios, times = [], []
    for turn in range(arguments.rounds):
        first, second = (a, b) if turn % 2 else (b, a)
        one, two = first(arguments.steps), second(arguments.steps)
        times.append((one, two) if turn % 2 else (two, one))
        ratios.append(times[-1][0] / times[-1][1])
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    own, other = 1e3 * np.median(times, axis=0)
    return f"{middle:.3f}  ({low:.3f} to {high:.3f})   {own:.1f} ms / {other:.1f} ms"


def title(size) -> None:
    """Print what is measured."""
    side, channels, batch, width = size
    print(f"\n{side}x{side}x{channels}, batch {batch}, first level {width} channels")


def compare_stores(size) -> None:
    """Print the ratio of every store to cross-entropy."""
    title(size)
    plain = stepper(trainer(size, None, CrossEntropy()), size, None)
    for name, options in STORES.items():
        own = stepper(trainer(size, 1000, **options), size, 1000)
        print(f"  {name + ' / cross-entropy:':54}", paired(own, plain), flush=True)


def compare_rows(size) -> None:
    """Print the ratios for few and many rows, and with the region term."""
    title(size)
    plain = stepper(trainer(size, None, CrossEntropy()), size, None)
    small = stepper(trainer(size, 100), size, 100)
    large = stepper(trainer(size, 10_000), size, 10_000)
    print("  PENCIL (100 rows) / cross-entropy:         ", paired(small, plain))
    print("  PENCIL (10,000 rows) / cross-entropy:      ", paired(large, plain))
    print("  PENCIL, 10,000 rows / 100 rows:            ", paired(large, small))
    region = stepper(trainer(size, 100, region=1.0), size, 100)
    dice = stepper(trainer(size, None, CrossEntropyDice()), size, None)
    print("  PENCIL with region term / CE + Dice:       ", paired(region, dice))


class Noise(Source):
    """Images of noise with random masks, in memory."""

    name, classes, channels, dims = "noise", ("background", "object"), 1, 2

    def __init__(self, count: int, side: int) -> None:
        self._side = side
        self.samples = tuple(Sample(f"noise-{i}", "train", "noise", "noise") for i in range(count))

    def load(self, index: int) -> Example:
        """One image."""
        rng = np.random.default_rng(index)
        image = rng.normal(size=(self._side, self._side, 1)).astype("float32")
        mask = rng.integers(0, 2, (self._side, self._side, 1)).astype("int16")
        return Example(image, mask, None, (1.0, 1.0))


def input_share(size) -> None:
    """Print how long the training step waits for its batches."""
    side, _, batch, width = size
    ingest = Ingest(Noise(batch * 16, side), list(range(batch * 16)))
    augment = Augment(rotate90=True)
    pipeline = Pipeline(ingest, batch_size=batch, augment=augment, label_rows=True)
    model = trainer((side, 1, batch, width), len(ingest))
    step = tf.function(model.train_step, reduce_retracing=True)
    shares = []
    for epoch in range(4):
        waited, begun, batches = 0.0, time.perf_counter(), iter(pipeline.dataset())
        for _ in range(pipeline.steps_per_epoch):
            asked = time.perf_counter()
            data = next(batches)
            waited += time.perf_counter() - asked
            step(data)
        shares.append(waited / (time.perf_counter() - begun))
        del epoch
    # The first epoch traces the step.
    print(f"\nshare of an epoch spent waiting for input, {side}x{side}: ", end="")
    print(", ".join(f"{s:.1%}" for s in shares[1:]), f"(median {np.median(shares[1:]):.1%})")


PARTS = {"stores": compare_stores, "rows": compare_rows, "input": input_share}
for part in arguments.parts:
    for one_size in SIZES:
        if one_size[0] in arguments.sizes:
            PARTS[part](one_size)
