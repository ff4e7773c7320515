"""Attacks on segmentation networks, reports of robustness, and training against attacks."""

from keras_robustseg._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "AdversarialTraining": "_training",
        "AttackResult": "_result",
        "Common": "_problem",
        "RobustnessCallback": "_callback",
        "RobustnessReport": "_evaluate_report",
        "cospgd": "_pgd",
        "evaluate_robustness": "_evaluate",
        "mifgsm": "_pgd",
        "pgd": "_pgd",
        "segpgd": "_pgd",
    },
)
