"""Train Keras segmentation networks on masks that are wrong in places.

    RobustSegmenter, labels.Pencil      train, and correct the masks on the way
    losses, metrics, models             for `model.compile` and `model.fit`
    attacks                             how robust a trained model is
    data, noise                         sources, checks, annotation noise, the input pipeline
    load_recipe, train, resume          the same from a recipe file, as `robustseg` does

Names load on first use, so that `robustseg --help` and a wrong recipe answer at once. The classes
that Keras must know to read a saved model are registered as soon as Keras itself is imported,
before or after this package.
"""

from keras_robustseg._lazy import attach as _attach
from keras_robustseg._lazy import register_with_keras as _register_with_keras

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "DataError": "errors",
        "ExactResume": "training",
        "ExportError": "errors",
        "Recipe": "recipes",
        "RecipeError": "errors",
        "RobustSegError": "errors",
        "RobustSegmenter": "training",
        "StateError": "errors",
        "TrainingError": "errors",
        "attack": "_cli_attack",
        "attacks": "",
        "audit": "_cli_audit",
        "classifiers": "",
        "data": "",
        "evaluate": "run",
        "export": "",
        "labels": "",
        "layers": "",
        "load_recipe": "recipes",
        "losses": "",
        "metrics": "",
        "models": "",
        "noise": "data",
        "optimize": "",
        "report": "",
        "resume": "run",
        "risk": "",
        "train": "run",
        "training": "",
        "tune": "_run_tune",
        "tuning": "",
    },
)

_register_with_keras()
