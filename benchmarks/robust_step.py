"""Cost of a training step with a robust loss against one with the mean, same network and data.

    python benchmarks/robust_step.py [--rounds 9] [--steps 2] [--jit] [--wall]
                                     [--only "cvar; labels tv, image"]
    python benchmarks/robust_step.py --alone

A U-Net on 128x128 images in batches of 8. For each loss: the interleaved ratio of the time of a
step to that of plain cross-entropy (median, quartiles of the rounds), and the loss and its
gradient to the logits by themselves, in milliseconds. `--alone` takes one step with the mean, and
says what part of it each loss by itself adds. Time is what the process itself computes, so that
other programs on the machine count little; `--wall` takes time on the clock.
"""

from __future__ import annotations

import argparse
import os
import time

parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--steps", type=int, default=2)
parser.add_argument("--only", default="")
parser.add_argument("--jit", action="store_true")
parser.add_argument("--wall", action="store_true")
parser.add_argument("--alone", action="store_true", help="only the losses by themselves")
arguments = parser.parse_args()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
clock = time.perf_counter if arguments.wall else time.process_time

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_robustseg import labels, risk  # noqa: E402
from keras_robustseg.losses import CrossEntropy, RobustSegmentationLoss  # noqa: E402
from keras_robustseg.models import unet  # noqa: E402

SIDE, BATCH, CLASSES, WIDTH, DEPTH = 128, 8, 4, 32, 4
RISKS = {
    "worst case": risk.WorstCase(),
    "cvar": risk.CVaR(0.1),
    "cvar, l2": risk.CVaR(0.1, "l2", 0.1),
    "entropic": risk.EntropicRisk(1.0),
    "semideviation": risk.MeanSemideviation(1.0, 2),
    "mean deviation": risk.MeanDeviation(0.1, monotone=False),
    "spectral": risk.SpectralRisk([0.1, 0.2, 0.3, 0.4]),
    "kl": risk.DivergenceBall("kl", 0.1),
    "reverse kl": risk.DivergenceBall("reverse_kl", 0.1),
    "chi2": risk.DivergenceBall("chi2", 0.1),
    "neyman": risk.DivergenceBall("neyman", 0.1),
    "hellinger": risk.DivergenceBall("hellinger", 0.1),
    "tv": risk.DivergenceBall("tv", 0.1),
    "jeffreys": risk.DivergenceBall("jeffreys", 0.1),
    "renyi": risk.DivergenceBall("renyi", 0.1, order=3.0),
    "chi2 penalty": risk.DivergencePenalty("chi2", 1.0),
}
SETS = {
    "labels tv": labels.DivergenceAmbiguity("tv", 0.1),
    "labels tv, image": labels.DivergenceAmbiguity("tv", 0.1, "image"),
    "labels hellinger, image": labels.DivergenceAmbiguity("hellinger", 0.1, "image"),
    "labels kl, smoothed": labels.DivergenceAmbiguity("kl", 0.1, smoothing=0.1),
    "labels kl, smoothed, image": labels.DivergenceAmbiguity("kl", 0.1, "image", smoothing=0.1),
    "labels chi2, smoothed": labels.DivergenceAmbiguity("chi2", 0.1, smoothing=0.1),
    "labels hellinger, smoothed": labels.DivergenceAmbiguity("hellinger", 0.1, smoothing=0.1),
    "labels tv, smoothed": labels.DivergenceAmbiguity("tv", 0.1, smoothing=0.1),
    "labels jeffreys, smoothed": labels.DivergenceAmbiguity("jeffreys", 0.1, smoothing=0.1),
    "labels kl penalty": labels.DivergencePenaltyAmbiguity("kl", 1.0, smoothing=0.1),
    "labels wasserstein": labels.WassersteinAmbiguity(
        np.abs(np.subtract.outer(np.arange(CLASSES), np.arange(CLASSES))), 0.1
    ),
    "labels jitter": labels.SpatialWassersteinAmbiguity(2, 0.1),
    "labels jitter, price": labels.SpatialWassersteinAmbiguity(2, price=0.5),
    "labels joint, price": labels.SpatialWassersteinAmbiguity(2, price=0.5, coupling="joint"),
    "labels joint": labels.SpatialWassersteinAmbiguity(2, 0.1, coupling="joint"),
}


def losses() -> dict[str, RobustSegmentationLoss]:
    """Every risk over the pixels of an image, CVaR over images, and the label sets."""
    found = {name: RobustSegmentationLoss(pixel_risk=measure) for name, measure in RISKS.items()}
    found["cvar of images"] = RobustSegmentationLoss(image_risk=risk.CVaR(0.25))
    found["cvar of the batch"] = RobustSegmentationLoss(
        pixel_risk=risk.CVaR(0.1), pixel_pool="batch"
    )
    found |= {name: RobustSegmentationLoss(label_model=made) for name, made in SETS.items()}
    only = [name.strip() for name in arguments.only.split(";") if name.strip()]
    return {name: loss for name, loss in found.items() if not only or name in only}


rng = np.random.default_rng(0)
IMAGE = tf.constant(rng.normal(size=(BATCH, SIDE, SIDE, 1)).astype("float32"))
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
MASK = np.stack(
    [
        np.digitize(
            np.hypot(ROWS - rng.uniform(40, 90), COLUMNS - rng.uniform(40, 90)), [15, 30, 50]
        )
        for _ in range(BATCH)
    ]
)
MASK = tf.constant(MASK.astype("int32"))
LOGITS = tf.constant(rng.normal(0, 2, (BATCH, SIDE, SIDE, CLASSES)).astype("float32"))


def stepper(loss):
    """A function that runs n training steps and returns the seconds of one."""
    model = unet((SIDE, SIDE, 1), CLASSES, width=WIDTH, depth=DEPTH)
    model.compile(keras.optimizers.Adam(1e-3), loss=loss, jit_compile=arguments.jit)
    step = tf.function(model.train_step, jit_compile=arguments.jit)

    def run(count: int) -> float:
        begun = clock()
        for _ in range(count):
            step((IMAGE, MASK))
        return (clock() - begun) / count

    run(2)
    return run


def by_itself(loss) -> float:
    """Milliseconds of value and gradient."""

    @tf.function(jit_compile=arguments.jit)
    def both():
        with tf.GradientTape() as tape:
            tape.watch(LOGITS)
            value = loss(MASK, LOGITS)
        return value, tape.gradient(value, LOGITS)

    both()
    times = []
    for _ in range(max(5, arguments.rounds)):
        begun = clock()
        both()
        times.append(clock() - begun)
    return 1e3 * float(np.median(times))


def main() -> None:
    """Print one line a loss."""
    mean, plain = by_itself(CrossEntropy()), stepper(CrossEntropy())
    print(f"cross-entropy by itself {mean:.1f} ms", flush=True)
    if arguments.alone:
        step = 1e3 * plain(arguments.steps)
        print(f"step with the mean {step:.0f} ms", flush=True)
        for name, loss in losses().items():
            alone = by_itself(loss)
            added = (alone - mean) / step
            print(f"{name:28s} by itself {alone:8.1f} ms, {added:+.1%} of a step", flush=True)
        return
    for name, loss in losses().items():
        run, ratios = stepper(loss), []
        for turn in range(arguments.rounds):
            order = (run, plain) if turn % 2 else (plain, run)
            times = {one: one(arguments.steps) for one in order}
            ratios.append(times[run] / times[plain])
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        alone = by_itself(loss)
        print(f"{name:28s} {middle:.3f} ({low:.3f} to {high:.3f})  {alone:.1f} ms", flush=True)
    print(f"step with the mean {1e3 * plain(arguments.steps):.0f} ms")


if __name__ == "__main__":
    main()
