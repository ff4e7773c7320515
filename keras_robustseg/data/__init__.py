"""Data sources, checks, annotation noise and the input pipeline.

Names load on first use: sources, checks and noise need no TensorFlow, the pipeline does.
"""

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Affine": "_augment",
        "Augment": "_augment",
        "BadFile": "_problem",
        "CheckReport": "_check_report",
        "Elastic": "_augment",
        "Example": "_source",
        "FolderSource": "_folder",
        "Icbm152TissueSource": "_icbm",
        "Ingest": "_ingest",
        "Intensity": "_augment",
        "LidcFullSource": "_lidc_full",
        "LidcSource": "_lidc",
        "NnunetSource": "_nnunet",
        "NoisySource": "_noisy",
        "NpzSource": "_npz",
        "Pipeline": "_pipeline",
        "Problem": "_problem",
        "Sample": "_source",
        "SliceSource": "_slices",
        "Source": "_source",
        "TfdsSource": "_tfds",
        "check": "_check",
        "guard": "_check",
        "guard_listing": "_check",
        "noise": "",
        "source_from_config": "_registry",
    },
)
