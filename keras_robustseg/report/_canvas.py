"""Matplotlib figures without global state, written whole and the same every time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from keras_robustseg.training._atomic import write_bytes_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which are told apart with every kind of colour vision.
DARK = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # for lines on white
BRIGHT = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00")  # for lines on images


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, which no window and no other thread knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: str | Path) -> None:
    """Write the figure as PNG in one step; equal figures give equal bytes.

    Raises:
        StateError: the file cannot be written.
    """
    write_bytes_atomic(path, png_bytes(figure))


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
