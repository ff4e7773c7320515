"""What an audit finds in one mask, given the thresholds of the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ._audit_bias import displacement, edge_offset
from ._audit_image import class_severity, image_severity
from ._audit_passes import issue_mask
from ._audit_pixels import BoolArray, FloatArray, pixel_severity, self_confidence, softmin
from ._audit_pixels import suggested_mask as suggest
from ._objects import ObjectIssue, compare_objects

METHODS = ("regret", "cleanlab")


@dataclass(frozen=True)
class Rule:
    """How masks are judged.

    Attributes:
        method: "regret", or "cleanlab" for the scores and marks of cleanlab.segmentation.
        thresholds: (C,), see `ClassLevels`.
        haze: (C,), see `ClassLevels`; None for none.
        limit: self-confidence up to which cleanlab's rule marks a pixel.
        min_region: smallest region that is marked, in pixels; not used by cleanlab's rule.
    """

    method: str
    thresholds: FloatArray
    haze: FloatArray | None = None
    limit: float = -1.0
    min_region: int = 5


@dataclass(frozen=True, eq=False)
class Finding:
    """What was found in one mask.

    Attributes:
        severity: how wrong the mask looks, in [0, 1].
        softmin: cleanlab's image score, 1 is good.
        worst_class: the class with the largest severity.
        suggested: int (*S), void where the mask is.
        wrong: bool (*S), the pixels that look wrong.
        objects: the objects that look wrong.
        offsets: class -> the two offsets that `BiasEvidence` gathers, in px.
    """

    severity: float
    softmin: float
    worst_class: int
    suggested: np.ndarray
    wrong: BoolArray
    objects: tuple[ObjectIssue, ...]
    offsets: dict[int, dict[str, float]]


def examine(
    probabilities: FloatArray,
    mask: np.ndarray,
    rule: Rule,
    *,
    image: np.ndarray | None = None,
    spacing: Sequence[float] | None = None,
) -> Finding:
    """Examine one mask.

    Args:
        probabilities: (*S, C).
        mask: int (*S), negative is void, at least one pixel is not.
        rule: how to judge.
        image: (*S, channels), for edges.
        spacing: size of a pixel along each axis.

    Returns:
        What was found.

    Example:
        `examine(probabilities, mask, Rule("regret", np.array([0.95, 0.8]))).severity`
    """
    per_class = class_severity(probabilities, mask, rule.haze)
    quality = softmin(self_confidence(probabilities, mask)[mask >= 0])
    severity = image_severity(probabilities, mask, per_class=per_class)
    if rule.method == "cleanlab":
        severity = 1.0 - quality
    suggested = suggestion(probabilities, mask, rule)
    confidence = _of(probabilities, suggested)
    return Finding(
        severity=severity,
        softmin=quality,
        worst_class=1 + int(per_class[1:].argmax()),
        suggested=suggested,
        wrong=(suggested != mask) & (mask >= 0),
        objects=tuple(compare_objects(mask, suggested, confidence)),
        offsets=_offsets(probabilities, mask, rule.thresholds, image, spacing),
    )


def pixel_scores(probabilities: FloatArray, mask: np.ndarray, rule: Rule) -> FloatArray:
    """Return how wrong each pixel looks by the rule's method, (*S), 0 at void pixels."""
    if rule.method == "cleanlab":
        return 1.0 - self_confidence(probabilities, mask)
    overall = image_severity(probabilities, mask, rule.haze)
    return pixel_severity(probabilities, mask, image_severity=overall)


def suggestion(probabilities: FloatArray, mask: np.ndarray, rule: Rule) -> np.ndarray:
    """Return the mask (*S) that the rule suggests for a given one; arguments as `examine`."""
    if rule.method == "cleanlab":
        issues = issue_mask(probabilities, mask, rule.limit)
        return np.where(issues, probabilities.argmax(axis=-1), mask).astype(mask.dtype)
    return suggest(probabilities, mask, rule.thresholds, min_region=rule.min_region)


def _of(probabilities: FloatArray, labels: np.ndarray) -> FloatArray:
    return np.take_along_axis(probabilities, np.maximum(labels, 0)[..., None], axis=-1)[..., 0]


def _offsets(
    probabilities: FloatArray,
    mask: np.ndarray,
    thresholds: FloatArray,
    image: np.ndarray | None,
    spacing: Sequence[float] | None,
) -> dict[int, dict[str, float]]:
    """The offsets of each given foreground class; of the edges only where there is an image."""
    # Relative to what each class usually reaches: noise lowers the confidence in small classes,
    # and the most likely class then shrinks their objects without anybody having drawn too much.
    believed = np.where(mask >= 0, (probabilities / thresholds).argmax(axis=-1), mask)
    found = {}
    for label in np.unique(mask[mask > 0]).tolist():
        found[label] = {"displacement": displacement(mask == label, believed == label)}
        if image is not None:
            found[label]["edge_offset"] = edge_offset(image, mask, label, spacing=spacing)
    return found
