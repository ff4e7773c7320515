"""Time and memory of a TV segmentation layer, forward and backward, against other frameworks.

    python benchmarks/optimize.py [--rounds 5] [--parts time memory growth cvxpylayers]

Ours is `optimize.relaxed_potts`, compiled by XLA, with 200 primal-dual and at most 100 adjoint
iterations, epsilon .5 and weight .3. Beside it, where they are installed: the same iterations in
torch, unrolled; the same in JAX with jaxopt's implicit derivative (its default, conjugate gradients
on the normal equations); cvxpylayers. Times are processor times, the rounds interleaved.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

for _name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from keras_robustseg import optimize  # noqa: E402

EPSILON, WEIGHT, STEP = 0.5, 0.3, 8**-0.5


def costs(batch: int, side: int, classes: int) -> np.ndarray:
    """Costs of a labelling in blocks, under noise."""
    rng = np.random.default_rng(0)
    block = rng.integers(0, classes, (batch, side // 8, side // 8))
    labels = np.kron(block, np.ones((8, 8), int))
    noise = rng.normal(0, 0.8, (*labels.shape, classes))
    return (noise - np.eye(classes)[labels]).astype("float32")


def ours(
    cost: np.ndarray, iterations: int = 200, adjoint: str = "implicit", tol: float = 0.0
) -> Any:
    """A function that returns solution and gradient."""
    options = optimize.PottsOptions(
        iterations=iterations,
        tolerance=tol,
        adjoint=adjoint,
        adjoint_iterations=100 if tol == 0 else 1000,
    )
    given, weight = tf.constant(cost), tf.constant(WEIGHT)
    pull = tf.constant(np.random.default_rng(1).normal(size=cost.shape).astype("float32"))

    @tf.function(jit_compile=True)
    def both() -> Any:
        with tf.GradientTape() as tape:
            tape.watch((given, weight))
            labels = optimize.relaxed_potts(given, weight, epsilon=EPSILON, options=options)[0]
            value = tf.reduce_sum(labels * pull)
        return labels, *tape.gradient(value, (given, weight))

    return lambda: [part.numpy() for part in both()]


def in_torch(cost: np.ndarray, iterations: int = 200) -> Callable[[], Any]:
    """Unrolled, with the simplex projection by sorting."""
    import torch

    torch.set_num_threads(1)
    pull = torch.tensor(np.random.default_rng(1).normal(size=cost.shape).astype("float32"))

    def project(u: Any) -> Any:
        z = torch.sort(u, -1, descending=True).values
        count = torch.arange(1, u.shape[-1] + 1)
        level = (torch.cumsum(z, -1) - 1) / count
        last = (z > level).sum(-1, keepdim=True) - 1
        return torch.relu(u - torch.gather(level, -1, last))

    def both() -> Any:
        f = torch.tensor(cost, requires_grad=True)
        weight = torch.tensor(WEIGHT, requires_grad=True)
        u = project(-f / EPSILON)
        p = q = torch.zeros(1)
        for _ in range(iterations):
            back = torch.zeros_like(u)
            if p.ndim > 1:
                pad = torch.nn.functional.pad
                back = pad(p, (0, 0, 0, 0, 1, 0)) - pad(p, (0, 0, 0, 0, 0, 1))
                back = back + pad(q, (0, 0, 1, 0)) - pad(q, (0, 0, 0, 1))
            new = project((u - STEP * (back + f)) / (1 + STEP * EPSILON))
            ahead, u = 2 * new - u, new
            p = torch.clamp(p + STEP * (ahead[:, 1:] - ahead[:, :-1]), -weight, weight)
            q = torch.clamp(q + STEP * (ahead[:, :, 1:] - ahead[:, :, :-1]), -weight, weight)
        (u * pull).sum().backward()
        return u.detach().numpy(), f.grad.numpy(), weight.grad.numpy()

    return both


def in_jaxopt(cost: np.ndarray, iterations: int = 200) -> Callable[[], Any]:
    """jaxopt's implicit derivative of the same fixed point, with at most 50 steps of its solver."""
    import jax
    import jax.numpy as jnp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jaxopt
        from jaxopt import implicit_diff, linear_solve
    project = jnp.vectorize(jaxopt.projection.projection_simplex, signature="(n)->(n)")
    pull = jnp.array(np.random.default_rng(1).normal(size=cost.shape).astype("float32"))

    def step(state: Any, f: Any, weight: Any) -> Any:
        u, p, q = state
        rows, columns = ((0, 0), (1, 1), (0, 0), (0, 0)), ((0, 0), (0, 0), (1, 1), (0, 0))
        back = -jnp.diff(jnp.pad(p, rows), axis=1) - jnp.diff(jnp.pad(q, columns), axis=2)
        new = project((u - STEP * (back + f)) / (1 + STEP * EPSILON))
        ahead = 2 * new - u
        p = jnp.clip(p + STEP * jnp.diff(ahead, axis=1), -weight, weight)
        q = jnp.clip(q + STEP * jnp.diff(ahead, axis=2), -weight, weight)
        return new, p, q

    solve = functools.partial(linear_solve.solve_normal_cg, maxiter=50)

    @implicit_diff.custom_fixed_point(step, solve=solve)
    def solution(start: Any, f: Any, weight: Any) -> Any:
        return jax.lax.fori_loop(0, iterations, lambda _, now: step(now, f, weight), start)

    def value(f: Any, weight: Any) -> Any:
        zeros = jnp.zeros_like(f)
        u = solution((project(-f / EPSILON), zeros[:, 1:], zeros[:, :, 1:]), f, weight)[0]
        return jnp.sum(u * pull), u

    compiled = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))

    def both() -> Any:
        (_, u), grads = compiled(jnp.array(cost), jnp.array(WEIGHT))
        return [np.asarray(part) for part in (u, *grads)]

    return both


def in_cvxpylayers(cost: np.ndarray, **solver: float) -> Callable[[], Any]:
    """One image through cvxpylayers, with settings of its solver SCS."""
    import cvxpy as cp
    import torch
    from cvxpylayers.torch import CvxpyLayer

    side, classes = cost.shape[1], cost.shape[-1]
    f, us = cp.Parameter((side * side, classes)), cp.Variable((side * side, classes))
    total = cp.sum(cp.multiply(f, us)) + EPSILON / 2 * cp.sum_squares(us)
    for k in range(classes):
        image = cp.reshape(us[:, k], (side, side), order="C")
        edges = cp.norm1(cp.diff(image, axis=0)) + cp.norm1(cp.diff(image, axis=1))
        total = total + WEIGHT * edges
    problem = cp.Problem(cp.Minimize(total), [us >= 0, cp.sum(us, axis=1) == 1])
    layer = CvxpyLayer(problem, parameters=[f], variables=[us])
    pull = torch.tensor(np.random.default_rng(1).normal(size=cost.shape)).reshape(-1, classes)

    def both() -> Any:
        given = torch.tensor(cost[0].reshape(-1, classes).astype("float64"), requires_grad=True)
        (u,) = layer(given, solver_args=solver)
        (u * pull).sum().backward()
        return u.detach().numpy().reshape(cost.shape), given.grad.numpy().reshape(cost.shape)

    return both


def seconds(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Processor seconds of each, interleaved; all are compiled already."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.process_time()
            run()
            found[name].append(time.process_time() - begun)
    return {name: np.array(times) for name, times in found.items()}


def row(name: str, times: np.ndarray, base: np.ndarray) -> str:
    """Median seconds and quartiles, and how many times ours."""
    low, middle, high = np.percentile(times, (25, 50, 75))
    return f"{name:24s} {middle:8.3f} ({low:.3f} to {high:.3f}) s, {np.median(times / base):6.1f}"


def show(runs: dict[str, tuple[str, Callable[..., Any]]], cost: np.ndarray, rounds: int) -> None:
    """Print a row for each, with the distance of its solution from ours."""
    ready = {"ours": ours(cost) if cost.shape[0] > 1 else ours(cost, 4000, tol=1e-7)}
    for name, (module, make) in runs.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name:24s} not installed")
        else:
            ready[name] = make(cost)
    first = {name: run()[0] for name, run in ready.items()}  # also compiles
    times = seconds(ready, rounds)
    for name in ready:
        distance = np.max(np.abs(first[name] - first["ours"]))
        print(row(name, times[name], times["ours"]), f"times ours; solutions differ {distance:.1e}")


def memory(mode: str, iterations: int) -> None:
    """Print the MiB that this process grew by for one call."""
    cost = costs(8, 64, 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours(cost, iterations, mode)()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{mode}, {iterations} iterations: {(after - before) / 1024:.0f} MiB")


def main() -> None:
    """Print the parts that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="*", default=["time", "memory", "growth", "cvxpylayers"])
    parser.add_argument("--child", nargs=2)
    asked = parser.parse_args()
    if asked.child:
        memory(asked.child[0], int(asked.child[1]))
        return
    if "time" in asked.parts:
        rivals = {"torch, unrolled": ("torch", in_torch), "jaxopt": ("jaxopt", in_jaxopt)}
        show(rivals, costs(8, 64, 4), asked.rounds)
    if "growth" in asked.parts:
        for side in (32, 64, 128, 256):
            run = ours(costs(2, side, 4))
            run()
            times = seconds({"ours": run}, asked.rounds)["ours"]
            print(f"2 images of {side} x {side}: {np.median(times):.3f} s")
    if "memory" in asked.parts:
        for mode in ("implicit", "unrolled"):
            for iterations in ("50", "200", "800"):
                subprocess.run([sys.executable, __file__, "--child", mode, iterations], check=True)
    if "cvxpylayers" in asked.parts:
        exact = functools.partial(in_cvxpylayers, eps=1e-8, max_iters=20000)
        rivals = {
            "cvxpylayers": ("cvxpylayers", in_cvxpylayers),
            "cvxpylayers, to 1e-8": ("cvxpylayers", exact),
        }
        show(rivals, costs(1, 32, 4), min(asked.rounds, 3))


if __name__ == "__main__":
    main()
