"""Benchmarks: one base recipe over a grid of data, methods and seeds, its statistics and targets.

Names load on first use: reading, listing and judging a benchmark needs no TensorFlow.
"""

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Benchmark": "_file",
        "CellDice": "_targets",
        "CellStore": "_store",
        "Results": "_results",
        "Task": "_tasks",
        "Verdict": "_targets",
        "collect": "_results",
        "evaluate_targets": "_targets",
        "holm": "_statistics",
        "list_benchmarks": "_file",
        "load_benchmark": "_file",
        "markdown": "_tables",
        "paired_bootstrap": "_statistics",
        "ranks": "_statistics",
        "recipe_of": "_tasks",
        "run_benchmark": "_run",
        "run_cell": "_cell",
        "tasks": "_tasks",
        "wilcoxon": "_statistics",
    },
)
