"""Tables and figures of a run; imports neither Keras nor, before a figure is drawn, matplotlib."""

from __future__ import annotations

from keras_robustseg._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AuditData": "_audit_data",
        "AuditReport": "_audit_report",
        "AuditSample": "_audit_data",
        "ObjectIssue": "_objects",
        "OverlayItem": "_overlays",
        "audit": "_audit",
        "class_severity": "_audit_image",
        "compare_objects": "_objects",
        "confident_issues": "_audit_passes",
        "curves": "_figures",
        "flatten": "_tables",
        "image_severity": "_audit_image",
        "issue_mask": "_audit_passes",
        "metrics_table": "_tables",
        "nest": "_tables",
        "open_predictions": "_audit_files",
        "overlays": "_overlays",
        "pixel_severity": "_audit_pixels",
        "preview": "_noise_figure",
        "scores": "_tables",
        "self_confidence": "_audit_pixels",
        "softmin": "_audit_pixels",
        "write_metrics": "_tables",
        "write_robustness": "_robustness",
    },
)
