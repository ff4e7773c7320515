"""Segmentation networks, and prediction on large images."""

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "CropLike": "_sizes",
        "PadToMultiple": "_sizes",
        "from_hub": "_hub",
        "predict_probabilities": "_predict",
        "unet": "_unet",
    },
)
