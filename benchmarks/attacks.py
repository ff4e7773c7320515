"""Minimal norms and time of attacks on the two reference networks.

    python benchmarks/attacks.py --norms [--steps 500] [--images 16] [--max-eps .1] [--only FMN]
    python benchmarks/attacks.py --norms --runs RUN [RUN ..] [--ignore-label 0] [--success-rate .9]
    python benchmarks/attacks.py --norms --fresh CLASSES [CLASSES ..]
    python benchmarks/attacks.py --speed [--rounds 3] [--rival-python PATH]

`--norms` prints for each attack the median norm in 1/255 over the images, failures infinite, at the
same number of gradient evaluations; with `--runs` on the test images of runs of this package, or of
its SavedModels, instead of the reference networks, with `--fresh` on networks of so many classes
that are trained for it, two of each. `--speed` prints the processor time of one image and iteration
of ALMA prox on network A with one thread, batches of 16, and in turn that of adversarial-library at
batches of 12 and 1, in a Python that has it and torch (`--rival-python`); without one ours is timed
alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--norms", action="store_true")
parser.add_argument("--speed", action="store_true")
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--images", type=int, default=16)
parser.add_argument("--runs", nargs="+", type=Path, default=[])
parser.add_argument("--fresh", nargs="+", type=int, default=[], metavar="CLASSES")
parser.add_argument("--ignore-label", type=int)
parser.add_argument("--success-rate", type=float, default=0.99)
parser.add_argument("--only", nargs="+", default=[""], help="attacks whose label has one of these")
parser.add_argument("--max-eps", type=float, default=0.1)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--rival-python")
arguments = parser.parse_args()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from attack_cases import VOID, golden, reference_network  # noqa: E402
from attacks_fresh import fresh  # noqa: E402

from keras_robustseg import attacks  # noqa: E402
from keras_robustseg._run_attack import Victim, batches, image_range  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
SPEED_STEPS = 50


def reference(name: str) -> tuple[tuple, dict]:
    """Return model, images and labels of network A or B, and options of an attack."""
    data, first = golden(f"dev_{name}"), slice(arguments.images)
    call = (reference_network(name), data["images"][first], data["labels"][first])
    return call, {"ignore_label": VOID}


def trained(run: Path) -> tuple[tuple, dict]:
    """Return the same of a run; its images in [0, 1], with the scaling put into the model."""
    victim = Victim.open(run, None)
    indices = victim.indices("test", arguments.images)
    low, high = image_range(victim, indices)
    (images, labels), *_ = batches(victim, indices, len(indices))
    unit = keras.Input(images.shape[1:])
    scaled = keras.layers.Rescaling(high - low, low)(unit)
    model = keras.Model(unit, victim.model(scaled, training=False))
    call = (model, np.clip((images - low) / (high - low), 0, 1), labels)
    options = {"success_rate": arguments.success_rate, "ignore_label": arguments.ignore_label}
    return call, options


def victims() -> Iterator[tuple[str, tuple]]:
    """Give names, and what `reference` or `trained` return, one at a time."""
    for run in arguments.runs:
        yield run.name, trained(run)
    for classes in arguments.fresh:
        for noise in (0.05, 0.15):
            yield f"{classes}, noise {noise}", (fresh(classes, noise, seed=classes), {})
    if not arguments.runs and not arguments.fresh:
        yield from ((name, reference(name)) for name in "AB")


def norms() -> None:
    """Print the table of minimal norms; a search has ten runs of a tenth of the steps.

    SEA divides these among its four losses. A search begins at `--max-eps` and reaches twice as
    far.
    """
    steps = arguments.steps
    search = {"steps": steps // 10, "search_steps": 10, "max_eps": arguments.max_eps}

    def least(attack: object, **extra: object) -> object:
        return lambda *call, **common: attacks.minimal_eps(
            attack, *call, **{**search, **extra, **common}
        )

    rows = {
        "ALMA prox": (attacks.alma_prox, {"steps": steps}),
        "ALMA prox, published": (attacks.alma_prox, {"steps": steps, "preset": "published"}),
        "FMN": (attacks.fmn, {"steps": steps}),
        "DAG": (attacks.dag, {"steps": steps}),
        "least eps of CosPGD": (least(attacks.cospgd), {}),
        "least eps of SegPGD": (least(attacks.segpgd), {}),
        "least eps of PGD, logit ratio": (least(attacks.pgd, loss="logit_ratio"), {}),
        "least eps of PGD": (least(attacks.pgd), {}),
        "least eps of MI-FGSM": (least(attacks.mifgsm), {}),
        "least eps of SEA": (least(attacks.sea), {"steps": max(steps // 40, 1)}),
    }
    rows = {label: row for label, row in rows.items() if any(o in label for o in arguments.only)}
    for name, (call, common) in victims():
        for label, (attack, options) in rows.items():
            result = attack(*call, **common, **options)
            median = 255 * np.nanmedian(result.minimal_norm)
            print(f"{name:12s} {label:30s} {median:7.2f} {result.success.sum():3d}", flush=True)


def ours() -> float:
    """Milliseconds of one image and iteration; the graph is made before."""
    call, common = reference("A")
    begun = time.process_time()
    attacks.alma_prox(*call, steps=SPEED_STEPS, preset="published", **common)
    return 1e3 * (time.process_time() - begun) / SPEED_STEPS / arguments.images


def rival(batch: int) -> float:
    command = [arguments.rival_python, str(HERE / "attacks_rival.py"), str(batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def speed() -> None:
    """Print medians and their ratios, measured in turn."""
    ours()
    rows = []
    for _ in range(arguments.rounds):
        theirs = (rival(12), rival(1)) if arguments.rival_python else (np.nan, np.nan)
        rows.append((ours(), *theirs))
    mine, twelve, one = np.median(rows, axis=0)
    print(f"ours {mine:.2f} ms; rival {twelve:.2f} ms at batch 12, {one:.2f} ms at batch 1")
    ratios = np.array([(a / b, a / c) for a, b, c in rows])
    for batch, column in zip((12, 1), ratios.T, strict=True):
        span = f"{np.min(column):.2f} to {np.max(column):.2f}"
        print(f"ratio to batch {batch}: {np.median(column):.2f} ({span})")


if __name__ == "__main__":
    if arguments.norms:
        norms()
    if arguments.speed:
        speed()
