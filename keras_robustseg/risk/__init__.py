"""Risk measures: many losses to one number, and the weights that explain it."""

from keras_robustseg.risk._balls import divergence_ball
from keras_robustseg.risk._cvar import cvar, worst_case

__all__ = ["cvar", "divergence_ball", "worst_case"]
