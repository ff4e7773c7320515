"""Images with the outlines of the masks that were given, corrected, predicted, and true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ._canvas import BRIGHT, new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {
    "given": "given mask",
    "corrected": "corrected mask",
    "prediction": "prediction",
    "truth": "truth",
}
_WIDTH = 2.1  # inches of one picture


@dataclass(frozen=True)
class OverlayItem:
    """One row of the figure. `*S` is (H, W) or (D, H, W).

    Attributes:
        image: (*S, channels), any finite range.
        given: int (*S), -1 is void.
        corrected: int (*S), or None.
        prediction: int (*S), or None.
        truth: int (*S), or None where it is not known.
        title: what to write beside the row.
    """

    image: np.ndarray
    given: np.ndarray
    corrected: np.ndarray | None = None
    prediction: np.ndarray | None = None
    truth: np.ndarray | None = None
    title: str = ""


def overlays(
    items: Sequence[OverlayItem],
    path: str | Path,
    *,
    rendered: bool = False,
    classes: Sequence[str] = (),
) -> None:
    """Draw a grid: image | given mask | corrected mask | prediction | truth.

    Masks are outlines, one colour a class; below the other outlines the truth is drawn in white.
    Void is veiled grey. Of a volume one slice along its first axis is shown, the middle one of
    those with an object. Three channels are shown as colours, of any other number the first.

    Args:
        items: the rows, at least one; a column that no item has is left out.
        path: the PNG file.
        rendered: say on the figure that the images are rendered, not photographed or scanned.
        classes: names of the classes, background first, for the legend.

    Raises:
        ValueError: there are no items.
        StateError: the file cannot be written.

    Example:
        >>> mask = np.eye(8, dtype=int)
        >>> overlays([OverlayItem(np.zeros((8, 8, 1)), mask)], "/tmp/overlays.png")
    """
    if not items:
        raise ValueError("overlays: got no items, expected at least one")
    names = [name for name in _TITLES if any(getattr(item, name) is not None for item in items)]
    largest = max(_largest_class(item) for item in items)
    items = [_flat(item) for item in items]
    heights = [_WIDTH * item.image.shape[0] / item.image.shape[1] for item in items]
    figure = new_figure(_WIDTH * (len(names) + 1), sum(heights) + 0.6)
    grid = figure.subplots(len(items), len(names) + 1, squeeze=False, height_ratios=heights)
    for row, item in zip(grid, items, strict=True):
        _draw_row(row, item, names)
    for axes, title in zip(grid[0], ("image", *map(_TITLES.get, names)), strict=True):
        axes.set_title("rendered image" if rendered and title == "image" else title, fontsize=10)
    _add_legend(figure, largest, classes, truth="truth" in names)
    save_png(figure, path)


def _draw_row(row: Sequence[Axes], item: OverlayItem, names: Sequence[str]) -> None:
    picture = _picture(item.image)
    for axes, name in zip(row, ("", *names), strict=True):
        axes.set(xticks=[], yticks=[])
        mask = getattr(item, name) if name else None
        if name and mask is None:
            axes.text(0.5, 0.5, "none", color="grey", ha="center", transform=axes.transAxes)
            axes.imshow(np.ones_like(picture), cmap="gray", vmin=0, vmax=1)
            continue
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if mask is not None:
            _veil_void(axes, mask)
            if item.truth is not None and name != "truth":
                _outline(axes, item.truth, reference=True)
            _outline(axes, mask)
    row[0].set_ylabel(item.title, fontsize=8)


def _veil_void(axes: Axes, mask: np.ndarray) -> None:
    veil = np.full((*mask.shape, 4), 0.7)
    veil[..., 3] *= mask < 0
    axes.imshow(veil, interpolation="nearest")


def _outline(axes: Axes, mask: np.ndarray, *, reference: bool = False) -> None:
    """Trace the border of each class; as a reference thin and white."""
    from matplotlib.patheffects import withStroke

    edge = withStroke(linewidth=1.6 if reference else 2.4, foreground="black")
    padded = np.pad(mask, 1)  # so that an object at the image border has a closed outline
    rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
    for label in np.unique(mask[mask > 0]):
        lines = axes.contour(
            columns,
            rows,
            padded == label,
            levels=[0.5],
            colors="white" if reference else _colour(label),
            linewidths=0.8 if reference else 1.4,
        )
        lines.set_path_effects([edge])
    axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def _add_legend(figure: Figure, largest: int, classes: Sequence[str], *, truth: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    labels = range(1, largest + 1)
    lines = [Line2D([], [], color=_colour(label)) for label in labels]
    texts = [classes[label] if label < len(classes) else f"class {label}" for label in labels]
    if truth:
        edge = withStroke(linewidth=2.4, foreground="black")
        lines.append(Line2D([], [], color="white", path_effects=[edge]))
        texts.append("truth")
    if lines:
        figure.legend(lines, texts, loc="outside lower center", ncols=6, fontsize=8, frameon=False)


def _colour(label: int) -> str:
    return BRIGHT[(int(label) - 1) % len(BRIGHT)]


def _largest_class(item: OverlayItem) -> int:
    masks = [getattr(item, name) for name in _TITLES]
    return max(int(mask.max(initial=0)) for mask in masks if mask is not None)


def _flat(item: OverlayItem) -> OverlayItem:
    """The item itself, or the chosen slice of a volume."""
    if item.image.ndim == 3:
        return item
    reference = item.given if item.truth is None else item.truth
    filled = np.flatnonzero((reference > 0).any(axis=(1, 2)))
    index = int(filled[len(filled) // 2]) if len(filled) else len(reference) // 2
    arrays = {name: getattr(item, name) for name in ("image", *_TITLES)}
    flat = {name: array[index] for name, array in arrays.items() if array is not None}
    title = f"{item.title}, slice {index}" if item.title else f"slice {index}"
    return replace(item, **flat, title=title)


def _picture(image: np.ndarray) -> np.ndarray:
    """Scale to [0, 1], without letting single extreme pixels darken the rest."""
    shown = image if image.shape[-1] == 3 else image[..., 0]
    low, high = np.percentile(shown, (0.5, 99.5))
    return np.clip((shown - low) / max(high - low, 1e-12), 0, 1)
