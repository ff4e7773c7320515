"""Data sources, checks, annotation noise and the input pipeline."""

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "BadFile": "_problem",
        "CheckReport": "_check_report",
        "Example": "_source",
        "FolderSource": "_folder",
        "Icbm152TissueSource": "_icbm",
        "LidcFullSource": "_lidc_full",
        "LidcSource": "_lidc",
        "NnunetSource": "_nnunet",
        "NoisySource": "_noisy",
        "NpzSource": "_npz",
        "Pipeline": "_pipeline",
        "Problem": "_problem",
        "Sample": "_source",
        "Source": "_source",
        "TfdsSource": "_tfds",
        "check": "_check",
        "guard": "_check",
        "guard_listing": "_check",
        "noise": "",
        "source_from_config": "_registry",
    },
)
