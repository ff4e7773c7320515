"""Benchmarks: one base recipe over a grid of data, methods and seeds, its statistics and targets.

Names load on first use: reading, listing and judging a benchmark needs no TensorFlow.
"""

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "run_cell": "_cell",
    },
)
