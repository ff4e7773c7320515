"""What an audit reads: samples with a given mask, and class probabilities to hold against it."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from keras_robustseg.data._source import VOID
from keras_robustseg.errors import DataError

_FILE_VOID = 255
_SUM = 0.02  # how far probabilities may be from summing to one; float16 and 8-bit stores are


@dataclass(frozen=True, eq=False)
class AuditSample:
    """One image of an audit. `*S` is (H, W) or (D, H, W).

    Attributes:
        id: name, unique in the audit.
        mask: int (*S), the mask that was given, negative is void; or (*S, R) of R readers, where
            a mask that is all void was not given.
        probabilities: (*S, C), what a network that has not learned from this mask, or a label
            model, believes; (*S, 1) is the probability of class 1 of two.
        image: (*S, channels), for overlays and edges; may be None.
        spacing: size of a pixel along each axis; may be None.

    Example:
        `AuditSample("case 7", mask, probabilities, image)`
    """

    id: str
    mask: np.ndarray
    probabilities: np.ndarray
    image: np.ndarray | None = None
    spacing: tuple[float, ...] | None = None


class AuditData(abc.ABC):
    """Samples to audit, which can be gone through several times, one at a time.

    Attributes:
        name: for headings.
        classes: class names; index 0 is the background.
        rendered: True where the images were drawn by this package.
        notice: licence and origin of the data, may be empty.
        origin: one sentence on where the probabilities come from.
    """

    name: str = ""
    classes: tuple[str, ...] = ()
    rendered: bool = False
    notice: str = ""
    origin: str = ""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[AuditSample]:
        """Go through the samples, in the same order every time."""

    def save_mask(self, sample: AuditSample, mask: np.ndarray, path_stem: Path) -> Path:
        """Write a corrected mask, in the format and geometry of the given one where there is one.

        The default writes what `Source.save_mask` does without a file to follow: PNG in 2-D,
        `.nii.gz` (`.npy` without nibabel) in 3-D, void as 255.

        Args:
            sample: the sample, as it was iterated over.
            mask: int (*S), -1 is void.
            path_stem: where to write, without an extension.

        Raises:
            DataError: the file exists, or cannot be written.
        """
        from keras_robustseg.data._files_write import write_plain_mask

        return write_plain_mask(mask, path_stem)


class MemoryData(AuditData):
    """Samples that are in memory, or any sequence that makes them when it is asked for one.

    Args:
        samples: the samples.
        classes: class names; by default "background", "class 1" ... as many as the first sample
            has probabilities for.

    Raises:
        DataError: there are no samples, or they can be gone through only once.
    """

    def __init__(self, samples: Sequence[AuditSample], classes: Sequence[str] = ()) -> None:
        if not hasattr(samples, "__getitem__"):
            kind = type(samples).__name__
            raise DataError(f"audit: got a {kind}, expected a sequence: it is gone through twice")
        if not len(samples):
            raise DataError("audit: got no samples, expected at least one")
        self.samples, self.name = samples, "samples in memory"
        count = max(samples[0].probabilities.shape[-1], 2)
        names = ("background", *(f"class {k}" for k in range(1, count)))
        self.classes = tuple(classes) or names
        self.origin = "Probabilities that were given."

    def __iter__(self) -> Iterator[AuditSample]:
        return (self.samples[index] for index in range(len(self.samples)))


def checked(sample: AuditSample, num_classes: int, ignore_class: int | None = None) -> AuditSample:
    """Return a sample as the audit computes with it, or say what is wrong.

    Masks become int with void as -1: negative values, `ignore_class`, and 255 where it is no
    class. Binary probabilities become two classes.

    Raises:
        DataError: shapes that do not fit together, labels out of range, or numbers that are no
            probabilities.

    Example:
        `checked(AuditSample("a", mask, probabilities), 2, ignore_class=255)`
    """
    p = np.asarray(sample.probabilities)
    if p.dtype.kind != "f":
        raise DataError(f"{sample.id}: probabilities of type {p.dtype}, expected floating point")
    if p.dtype == np.float16:
        p = p.astype(np.float32)
    if p.shape[-1:] == (1,) and num_classes == 2:
        p = np.concatenate([1 - p, p], axis=-1)
    size = p.shape[:-1]
    if p.shape[-1] != num_classes or len(size) not in (2, 3) or 0 in size:
        raise DataError(
            f"{sample.id}: probabilities of shape {p.shape}, expected (height, width, "
            f"{num_classes}) or (depth, height, width, {num_classes}): classes last"
        )
    _check_probabilities(sample.id, p)
    mask = _checked_mask(sample, size, num_classes, ignore_class)
    image = sample.image
    if image is not None:
        image = image[..., None] if image.ndim == len(size) else image
        _check_size(sample.id, "an image", image.shape[:-1], size)
    return replace(sample, probabilities=p, mask=mask, image=image)


def _check_size(name: str, what: str, found: tuple[int, ...], size: tuple[int, ...]) -> None:
    if found != size:
        raise DataError(f"{name}: {what} of shape {found}, expected {size}, as the probabilities")


def _check_probabilities(name: str, p: np.ndarray) -> None:
    low, high = float(p.min()), float(p.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name}: probabilities that are NaN or infinite, expected finite numbers")
    if low < -1e-6 or high > 1 + _SUM:
        raise DataError(
            f"{name}: probabilities from {low:.4g} to {high:.4g}, expected 0 to 1; apply the "
            "softmax to logits first"
        )
    worst = float(np.abs(p.sum(axis=-1) - 1).max())
    if worst > _SUM:
        raise DataError(
            f"{name}: the probabilities of a pixel sum to {1 + worst:.4g} or {1 - worst:.4g}, "
            "expected 1 over the last axis (classes last)"
        )


def _checked_mask(
    sample: AuditSample, size: tuple[int, ...], num_classes: int, ignore_class: int | None
) -> np.ndarray:
    """int (*S, R) with void as -1."""
    mask = np.asarray(sample.mask)
    if mask.dtype.kind not in "iub":
        raise DataError(f"{sample.id}: a mask of type {mask.dtype}, expected integers")
    mask = mask[..., None] if mask.ndim == len(size) else mask
    _check_size(sample.id, "a mask", mask.shape[:-1], size)
    labels = mask.astype(np.int32)
    void = labels < 0
    if ignore_class is not None:
        void |= labels == ignore_class
    if num_classes <= _FILE_VOID:
        void |= labels == _FILE_VOID
    labels[void] = VOID
    top = int(labels.max(initial=0))
    if top >= num_classes:
        raise DataError(
            f"{sample.id}: a mask with the value {top}, expected 0 to {num_classes - 1}, or void: "
            "-1, 255, or another value by ignore_class"
        )
    return labels
