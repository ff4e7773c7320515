"""Annotation noise: what people and tools do wrong when they draw masks, seeded per sample.

Every function returns a callable `noise(mask, seed=...) -> mask` on class indices `(H, W)` or
`(D, H, W)`, in NumPy and SciPy; void (negative) pixels are left alone. Names load on first use:
a recipe needs the table of fields, not SciPy.
"""

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "FIELDS": "_fields",
        "Field": "_fields",
        "KINDS": "_config",
        "LIDC_READERS": "_reader",
        "Mixture": "_mixture",
        "Noise": "_noise",
        "ReaderParameters": "_reader",
        "STRENGTH": "_fields",
        "class_flip": "_objects",
        "describe": "_mixture",
        "dilate": "_regions",
        "elastic": "_warp",
        "erode": "_regions",
        "extra": "_objects",
        "from_config": "_config",
        "markov": "_markov",
        "measure": "_measure",
        "missing": "_objects",
        "mixture": "_mixture",
        "pixel_flip": "_pixels",
        "polygon": "_polygon",
        "reader": "_reader",
        "shift": "_warp",
        "to_target_dice": "_target",
    },
)
