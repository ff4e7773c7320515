"""Tables and figures of a run; imports neither Keras nor, before a figure is drawn, matplotlib."""

from __future__ import annotations

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "OverlayItem": "_overlays",
        "curves": "_figures",
        "flatten": "_tables",
        "metrics_table": "_tables",
        "nest": "_tables",
        "overlays": "_overlays",
        "preview": "_noise_figure",
        "scores": "_tables",
        "write_metrics": "_tables",
    },
)
