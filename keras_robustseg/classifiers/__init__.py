"""Convex classifiers of pixels, with the derivative of what they learn to their settings."""

from keras_robustseg._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {
        "CoefficientGradient": "_base",
        "PixelClassifier": "_base",
        "PixelLogisticRegression": "_logistic",
        "PixelQDA": "_qda",
        "PixelSVM": "_svm",
        "SpatialClassifier": "_spatial",
        "network_features": "_features",
        "pixel_feature_names": "_features",
        "pixel_features": "_features",
    },
)
