"""Hyper-parameters by the gradient of a validation loss, for classifiers and for networks."""

from keras_robustseg._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "BilevelTuner": "_tuner",
        "Hyperparameter": "_hyperparameter",
        "NetworkStep": "_network",
        "NetworkTuner": "_network",
        "OuterStep": "_report",
        "TunableEstimator": "_inner",
        "TuningReport": "_report",
        "neumann_hypergradient": "_network",
    },
)
