"""Segmentation metrics with a stated empty-mask rule; the NumPy ones import without Keras."""

from __future__ import annotations

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Dice": "_counting",
        "IoU": "_counting",
        "MaskEvaluation": "_evaluate",
        "PixelAccuracy": "_counting",
        "RiskFigure": "_risk_metrics",
        "accuracy": "_overlap",
        "average_symmetric_surface_distance": "_surface",
        "dice": "_overlap",
        "dice_of_counts": "_overlap",
        "evaluate_masks": "_evaluate",
        "hausdorff_95": "_surface",
        "iou": "_overlap",
        "majority_of_readers": "_overlap",
        "normalized_surface_dice": "_surface",
        "overlap_counts": "_overlap",
        "surface_distances": "_surface",
    },
)
