"""Attacks on segmentation networks, reports of robustness, and training against attacks."""

from keras_robustseg._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "AdversarialTraining": "_training",
        "AlmaSettings": "_alma_settings",
        "AttackResult": "_result",
        "Common": "_problem",
        "RobustnessCallback": "_callback",
        "RobustnessReport": "_evaluate_report",
        "alma_prox": "_alma",
        "cospgd": "_pgd",
        "dag": "_dag",
        "evaluate_robustness": "_evaluate",
        "fmn": "_fmn",
        "mifgsm": "_pgd",
        "minimal_eps": "_minimal",
        "noise": "_baselines",
        "pgd": "_pgd",
        "sea": "_sea",
        "segpgd": "_pgd",
        "transfer": "_baselines",
    },
)
