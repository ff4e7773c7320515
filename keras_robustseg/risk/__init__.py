"""Risk measures: many losses to one number, and the weights that explain it.

The classes hold parameters; the functions do the mathematics over the last axis.
"""

from keras_robustseg._lazy import register as _register
from keras_robustseg.risk._balls import divergence_ball
from keras_robustseg.risk._cvar import cvar, total_variation_ball, worst_case
from keras_robustseg.risk._measure import RiskMeasure
from keras_robustseg.risk._measures import (
    CVaR,
    EntropicRisk,
    Expectation,
    MeanDeviation,
    MeanSemideviation,
    SpectralRisk,
    WassersteinBall,
    WorstCase,
)
from keras_robustseg.risk._moments import expectation, mean_deviation, mean_semideviation
from keras_robustseg.risk._penalties import divergence_penalty, smoothed_cvar
from keras_robustseg.risk._reduce import AcrossReplicas
from keras_robustseg.risk._robust import OCE, DivergenceBall, DivergencePenalty, EVaR
from keras_robustseg.risk._spectral import spectral_risk, wasserstein_ball

__all__ = [
    "AcrossReplicas",
    "CVaR",
    "DivergenceBall",
    "DivergencePenalty",
    "EVaR",
    "EntropicRisk",
    "Expectation",
    "MeanDeviation",
    "MeanSemideviation",
    "OCE",
    "RiskMeasure",
    "SpectralRisk",
    "WassersteinBall",
    "WorstCase",
    "cvar",
    "divergence_ball",
    "divergence_penalty",
    "expectation",
    "mean_deviation",
    "mean_semideviation",
    "smoothed_cvar",
    "spectral_risk",
    "total_variation_ball",
    "wasserstein_ball",
    "worst_case",
]

_register(__name__)
