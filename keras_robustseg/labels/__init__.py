"""Label models: which label distribution the cost of a pixel is paid against."""

from keras_robustseg._lazy import register as _register
from keras_robustseg.labels._adele import Adele
from keras_robustseg.labels._agreement import (
    class_masses,
    image_agreement,
    image_weights,
    reference_agreement,
    unseen_classes,
)
from keras_robustseg.labels._ambiguity_base import LabelAmbiguity
from keras_robustseg.labels._ambiguity_divergence import (
    DivergenceAmbiguity,
    DivergencePenaltyAmbiguity,
)
from keras_robustseg.labels._ambiguity_spatial import SpatialWassersteinAmbiguity
from keras_robustseg.labels._ambiguity_wasserstein import WassersteinAmbiguity
from keras_robustseg.labels._closed_forms import (
    geometric_labels,
    lambert_labels,
    optimal_labels,
)
from keras_robustseg.labels._co_teaching import CoTeaching, small_loss_selection
from keras_robustseg.labels._confusion import ConfusionMatrices
from keras_robustseg.labels._early_learning import EarlyLearning, early_learning_term
from keras_robustseg.labels._fusion import majority_vote, soft_mean
from keras_robustseg.labels._masks import (
    base_weights,
    label_distribution,
    log_probabilities,
    num_classes_of,
)
from keras_robustseg.labels._memorization import memorization_begins
from keras_robustseg.labels._pencil import (
    Pencil,
    PencilTerms,
    full_logits,
    initial_logits,
    pencil_terms,
)
from keras_robustseg.labels._pencil_steps import (
    geometric_row_step,
    label_first_row_step,
    official_row_step,
    row_step,
)
from keras_robustseg.labels._spatial_bias import (
    estimate_spatial_bias,
    signed_distance,
    undo_spatial_bias,
)
from keras_robustseg.labels._staple import StapleResult, staple
from keras_robustseg.labels._store import LabelStore
from keras_robustseg.labels._store_disk import DiskLabelStore, make_label_store
from keras_robustseg.labels._store_size import label_store_bytes
from keras_robustseg.labels._transition import (
    TransitionMatrix,
    estimate_transition,
    noisy_log_probabilities,
    transition_posterior,
)

__all__ = [
    "Adele",
    "CoTeaching",
    "ConfusionMatrices",
    "DiskLabelStore",
    "DivergenceAmbiguity",
    "DivergencePenaltyAmbiguity",
    "EarlyLearning",
    "LabelAmbiguity",
    "LabelStore",
    "Pencil",
    "PencilTerms",
    "SpatialWassersteinAmbiguity",
    "StapleResult",
    "TransitionMatrix",
    "WassersteinAmbiguity",
    "base_weights",
    "class_masses",
    "early_learning_term",
    "estimate_spatial_bias",
    "estimate_transition",
    "full_logits",
    "geometric_labels",
    "geometric_row_step",
    "image_agreement",
    "image_weights",
    "initial_logits",
    "label_distribution",
    "label_first_row_step",
    "label_store_bytes",
    "lambert_labels",
    "log_probabilities",
    "majority_vote",
    "make_label_store",
    "memorization_begins",
    "noisy_log_probabilities",
    "num_classes_of",
    "official_row_step",
    "optimal_labels",
    "pencil_terms",
    "reference_agreement",
    "row_step",
    "signed_distance",
    "small_loss_selection",
    "soft_mean",
    "staple",
    "transition_posterior",
    "undo_spatial_bias",
    "unseen_classes",
]

_register(__name__)
