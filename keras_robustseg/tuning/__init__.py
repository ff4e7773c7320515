"""Hyper-parameters by the gradient of a validation loss, for classifiers and for networks."""

from keras_robustseg._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "BilevelTuner": "_tuner",
        "Hyperparameter": "_hyperparameter",
        "OuterStep": "_report",
        "TunableEstimator": "_inner",
        "TuningReport": "_report",
    },
)
