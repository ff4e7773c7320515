"""Time of risk measures, value and gradient, against packages for PyTorch where they are installed.

    python benchmarks/risk.py [--sizes 10000 1000000] [--rounds 9] [--wall]

One thread, and by default the time that the process itself computes, so that other programs on the
machine count little; `--wall` takes time on the clock. Each row is measured in turn with its rival
and prints the median ratio of times with the quartiles of the rounds, both medians in ms, and how
far our value in float32 is from that in float64, in parts of the spread of the losses. Rivals:
sqwash (its reducer), torch (`topk`), and dro (`RobustLoss` at its default tolerance of 1e-2), which
has no KL ball: the CVaR with a KL penalty stands for it. One that is missing is named, and ours is
timed alone.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

parser = argparse.ArgumentParser()
parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000])
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--wall", action="store_true")
arguments = parser.parse_args()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_robustseg import risk  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

ALPHA, RADIUS, TEMPERATURE = 0.1, 0.5, 0.1
Timed = Callable[[], float]


def ours(measure: risk.RiskMeasure, losses: np.ndarray, jit: bool) -> Timed:
    """A call that returns the value and computes the gradient."""
    x = tf.constant(losses)

    @tf.function(jit_compile=jit)
    def call(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = measure(x)
        return value, tape.gradient(value, x)

    return lambda: float(call(x)[0])


def in_torch(reducer: Callable, losses: np.ndarray) -> Timed:
    import torch

    torch.set_num_threads(1)
    x = torch.tensor(losses, requires_grad=True)

    def call() -> float:
        x.grad = None
        value = reducer(x)
        value.backward()
        return float(value)

    return call


def rivals(size: int) -> dict[str, list[tuple[str, Callable | None]]]:
    """For each of our measures, the names of its rivals and what they do, None if missing."""
    found: dict[str, Callable | None] = dict.fromkeys(("sqwash", "topk", "dro KL-CVaR", "dro chi2"))
    try:
        import torch

        found["topk"] = lambda x: torch.topk(x, max(1, round(ALPHA * size))).values.mean()
        from sqwash import SuperquantileReducer

        found["sqwash"] = SuperquantileReducer(superquantile_tail_fraction=ALPHA)
    except ImportError:
        pass
    try:
        from dro.neural_model.fdro_utils import RobustLoss

        # Its chi2 has a factor 1/2; it has no KL ball, but the CVaR with a KL penalty.
        chi2 = RobustLoss(size=RADIUS / 2, reg=0.0, geometry="chi-square")
        kl = RobustLoss(size=ALPHA, reg=TEMPERATURE, geometry="cvar")
        found |= {"dro chi2": chi2._compute_robust_loss, "dro KL-CVaR": kl._compute_robust_loss}
    except ImportError:
        pass
    names = {
        "CVaR": ("sqwash", "topk"),
        "KL ball": ("dro KL-CVaR",),
        "KL-CVaR": ("dro KL-CVaR",),
        "chi2 ball": ("dro chi2",),
    }
    return {ours: [(name, found[name]) for name in theirs] for ours, theirs in names.items()}


def seconds(call: Timed) -> float:
    clock = time.perf_counter if arguments.wall else time.process_time
    begun = clock()
    call()
    return clock() - begun


def compare(one: Timed, two: Timed | None) -> str:
    """Medians of both and the ratio of times, measured in turn."""
    for call in filter(None, (one, two, one, two)):
        call()
    times = []
    for turn in range(arguments.rounds):
        calls = [one, two or one] if turn % 2 else [two or one, one]
        pair = [seconds(call) for call in calls]
        times.append(pair if turn % 2 else pair[::-1])
    own, other = 1e3 * np.median(times, axis=0)
    if two is None:
        return f"{own:9.2f} ms"
    low, middle, high = np.percentile([a / b for a, b in times], [25, 50, 75])
    return f"{own:9.2f} ms / {other:9.2f} ms = {middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Print the table."""
    measures = {
        "CVaR": risk.CVaR(ALPHA),
        "KL ball": risk.DivergenceBall("kl", RADIUS),
        "KL-CVaR": risk.CVaR(ALPHA, "entropic", TEMPERATURE),
        "chi2 ball": risk.DivergenceBall("chi2", RADIUS),
        "Hellinger ball": risk.DivergenceBall("hellinger", RADIUS),
        "mean": risk.Expectation(),
    }
    for size in arguments.sizes:
        losses = np.random.default_rng(0).exponential(size=size).astype("float32")
        against = rivals(size)
        print(f"\n{size} losses")
        for name, measure in measures.items():
            exact = float(measure(losses.astype("float64")))
            for jit in (False, True):
                call = ours(measure, losses, jit)
                off = abs(call() - exact) / np.ptp(losses)
                for rival, reducer in against.get(name, [("", None)]):
                    other = None if reducer is None else in_torch(reducer, losses)
                    missing = " (not installed)" if rival and reducer is None else ""
                    label = f"{name}{', XLA' if jit else ''} / {rival or '-'}{missing}"
                    print(f"  {label:34s} {compare(call, other)}   off {off:.0e}", flush=True)


if __name__ == "__main__":
    main()
