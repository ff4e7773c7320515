"""Keras losses for segmentation under label uncertainty."""

from keras_robustseg._lazy import register as _register
from keras_robustseg.losses._base import SegmentationLoss, replica_count
from keras_robustseg.losses._bootstrapping import Bootstrapping, bootstrapping
from keras_robustseg.losses._cross_entropy import CrossEntropy, cross_entropy
from keras_robustseg.losses._cross_entropy_dice import CrossEntropyDice
from keras_robustseg.losses._generalized_cross_entropy import (
    GeneralizedCrossEntropy,
    generalized_cross_entropy,
)
from keras_robustseg.losses._jensen_shannon import (
    GeneralizedJensenShannon,
    generalized_jensen_shannon,
)
from keras_robustseg.losses._label_smoothing import LabelSmoothing, label_smoothing
from keras_robustseg.losses._mae import ProbabilityMAE, probability_mae
from keras_robustseg.losses._noise_robust_dice import NoiseRobustDice, noise_robust_dice_per_image
from keras_robustseg.losses._robust import RobustSegmentationLoss
from keras_robustseg.losses._robust_costs import class_costs
from keras_robustseg.losses._soft_dice import (
    SoftDice,
    class_ratio_per_image,
    soft_dice,
    soft_dice_per_image,
)
from keras_robustseg.losses._stochastic import StochasticSegmentationLoss
from keras_robustseg.losses._symmetric import (
    SymmetricCrossEntropy,
    reverse_cross_entropy,
    symmetric_cross_entropy,
)
from keras_robustseg.losses._t_loss import (
    TLoss,
    image_errors,
    likeliest_nu,
    student_t_loss,
    student_t_normalizer,
)
from keras_robustseg.losses._transition import (
    BackwardCorrection,
    ForwardCorrection,
    backward_correction,
    forward_correction,
)
from keras_robustseg.losses._truncated_gce import (
    TruncatedGCE,
    gated_gce,
    truncated_gce,
    trusted_labels,
)

__all__ = [
    "BackwardCorrection",
    "Bootstrapping",
    "CrossEntropy",
    "CrossEntropyDice",
    "ForwardCorrection",
    "GeneralizedCrossEntropy",
    "GeneralizedJensenShannon",
    "LabelSmoothing",
    "NoiseRobustDice",
    "ProbabilityMAE",
    "RobustSegmentationLoss",
    "SegmentationLoss",
    "SoftDice",
    "StochasticSegmentationLoss",
    "SymmetricCrossEntropy",
    "TLoss",
    "TruncatedGCE",
    "backward_correction",
    "bootstrapping",
    "class_costs",
    "class_ratio_per_image",
    "cross_entropy",
    "forward_correction",
    "gated_gce",
    "generalized_cross_entropy",
    "generalized_jensen_shannon",
    "image_errors",
    "label_smoothing",
    "likeliest_nu",
    "noise_robust_dice_per_image",
    "probability_mae",
    "replica_count",
    "reverse_cross_entropy",
    "soft_dice",
    "soft_dice_per_image",
    "student_t_loss",
    "student_t_normalizer",
    "symmetric_cross_entropy",
    "truncated_gce",
    "trusted_labels",
]

_register(__name__)
