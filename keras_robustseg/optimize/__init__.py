"""Optimisation that differentiates: solvers, their certificates, derivatives of their answers."""

from keras_robustseg._lazy import register as _register
from keras_robustseg.optimize._info import (
    LinearInfo,
    SolveInfo,
    Status,
    describe,
    worst_status,
)
from keras_robustseg.optimize._monitor import SolveMonitor, SolveRecord

__all__ = [
    "LinearInfo",
    "SolveInfo",
    "SolveMonitor",
    "SolveRecord",
    "Status",
    "describe",
    "worst_status",
]

_register(__name__)
