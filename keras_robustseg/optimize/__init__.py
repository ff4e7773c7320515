"""Optimisation that differentiates: solvers, their certificates, derivatives of their answers."""

from keras_robustseg._lazy import attach as _attach
from keras_robustseg._lazy import register as _register
from keras_robustseg.errors import SolverError
from keras_robustseg.optimize._active_set import ElasticNetGradients, elastic_net_vjp
from keras_robustseg.optimize._active_set_bounds import (
    BoxGradients,
    SimplexGradients,
    box_vjp,
    simplex_vjp,
)
from keras_robustseg.optimize._gmres import gmres
from keras_robustseg.optimize._info import (
    LinearInfo,
    SolveInfo,
    Status,
    describe,
    require_ok,
    worst_status,
)
from keras_robustseg.optimize._iterate import AndersonIteration, FixedPointIteration
from keras_robustseg.optimize._krylov import bicgstab, cg, normal_cg
from keras_robustseg.optimize._monitor import SolveMonitor, SolveRecord
from keras_robustseg.optimize._potts import (
    PottsOptions,
    potts_objective,
    potts_vjp,
    relaxed_potts,
)
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
from keras_robustseg.optimize._tv1d import prox_tv1d
from keras_robustseg.optimize._tv2d import prox_tv2d

# What needs TensorFlow is loaded on first use, so that the rest works without it.
__getattr__, _directory, _names = _attach(
    __name__,
    {
        "ADMM": "_splitting",
        "ChambollePock": "_splitting",
        "Composite": "_splitting",
        "DouglasRachford": "_splitting",
        "ForwardBackward": "_splitting",
        "Majorized": "_splitting",
        "MajorizeMinimize": "_splitting",
        "PeacemanRachford": "_splitting",
        "SaddlePoint": "_splitting",
        "Sum": "_splitting",
        "Implicit": "_adjoint",
        "Neumann": "_adjoint",
        "Newton": "_root",
        "OneStep": "_adjoint",
        "Unrolled": "_adjoint",
        "VjpCheck": "_check",
        "check_vjp": "_check",
        "fixed_point": "_fixed_point",
        "fixed_point_jvp": "_root",
        "fixed_point_vjp": "_root",
        "root": "_root",
        "root_jvp": "_root",
        "root_vjp": "_root",
    },
)

__all__ = [
    "ADMM",
    "AndersonIteration",
    "BoxGradients",
    "ChambollePock",
    "Composite",
    "DouglasRachford",
    "ElasticNetGradients",
    "FixedPointIteration",
    "ForwardBackward",
    "Implicit",
    "LinearInfo",
    "MajorizeMinimize",
    "Majorized",
    "Neumann",
    "Newton",
    "OneStep",
    "PeacemanRachford",
    "PottsOptions",
    "SaddlePoint",
    "SimplexGradients",
    "SolveInfo",
    "SolveMonitor",
    "SolveRecord",
    "SolverError",
    "Status",
    "Sum",
    "Unrolled",
    "VjpCheck",
    "anderson",
    "bicgstab",
    "box_vjp",
    "cg",
    "check_vjp",
    "describe",
    "elastic_net_vjp",
    "fixed_point",
    "fixed_point_jvp",
    "fixed_point_vjp",
    "gmres",
    "graphical_lasso",
    "neumann",
    "normal_cg",
    "potts_objective",
    "potts_vjp",
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
    "prox_tv1d",
    "prox_tv2d",
    "relaxed_potts",
    "require_ok",
    "robust_precision",
    "root",
    "root_jvp",
    "root_vjp",
    "simplex_vjp",
    "worst_status",
]

_register(__name__)
