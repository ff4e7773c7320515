"""Optimisation that differentiates: solvers, their certificates, derivatives of their answers."""

from keras_robustseg._lazy import register as _register
from keras_robustseg.optimize._gmres import gmres
from keras_robustseg.optimize._info import (
    LinearInfo,
    SolveInfo,
    Status,
    describe,
    worst_status,
)
from keras_robustseg.optimize._iterate import AndersonIteration, FixedPointIteration
from keras_robustseg.optimize._krylov import bicgstab, cg, normal_cg
from keras_robustseg.optimize._monitor import SolveMonitor, SolveRecord
from keras_robustseg.optimize._precision import graphical_lasso, robust_precision
from keras_robustseg.optimize._project_box import project_box, project_l2_ball
from keras_robustseg.optimize._project_capped import project_capped_simplex
from keras_robustseg.optimize._project_simplex import project_l1_ball, project_simplex
from keras_robustseg.optimize._prox_kl import prox_kl
from keras_robustseg.optimize._prox_norms import (
    prox_elastic_net,
    prox_group_l2,
    prox_l1,
    prox_linf,
    prox_sparse_group,
)
from keras_robustseg.optimize._prox_spectral import (
    project_psd,
    prox_neg_logdet,
    prox_nuclear,
    prox_rank,
)
from keras_robustseg.optimize._series import anderson, neumann

__all__ = [
    "AndersonIteration",
    "FixedPointIteration",
    "LinearInfo",
    "SolveInfo",
    "SolveMonitor",
    "SolveRecord",
    "Status",
    "anderson",
    "bicgstab",
    "cg",
    "describe",
    "gmres",
    "graphical_lasso",
    "neumann",
    "normal_cg",
    "project_box",
    "project_capped_simplex",
    "project_l1_ball",
    "project_l2_ball",
    "project_psd",
    "project_simplex",
    "prox_elastic_net",
    "prox_group_l2",
    "prox_kl",
    "prox_l1",
    "prox_linf",
    "prox_neg_logdet",
    "prox_nuclear",
    "prox_rank",
    "prox_sparse_group",
    "robust_precision",
    "worst_status",
]

_register(__name__)
