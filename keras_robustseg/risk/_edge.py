"""Worst cases of order above 1 near their edge: the gap beyond which losses get no mass.

There q ~ p (c - g)_+^s with s = 1 / (order - 1), and c may lie so close above the gap of a loss
with nearly all of the mass that c itself cannot be told from that gap. Here c = anchor + rise, with
the anchor the last gap below c, and the root is sought in log rise.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_robustseg.risk._root import At, increasing_root
from keras_robustseg.risk._rows import Rows, epsilon, tiny

_MAXIMUM = 60


def edge_weights(of: Rows, order: float, radius: Any, edge: Any, held: Any) -> Any:
    """Return the weights q (..., n) of the ball R_order(q || p) <= radius, given c to rounding.

    Args:
        of: the rows.
        order: above 1.
        radius: (..., 1), positive and less than that of the whole simplex.
        edge: c (..., 1) up to rounding.
        held: bool (..., 1), rows that are not asked for.
    """
    anchor = _last_gap(of, of.gaps <= edge * (1.0 + 16.0 * epsilon(edge)))
    reached = _divergence(of, order, anchor, ops.zeros_like(edge))[0] > radius
    anchor = ops.where(reached, anchor, _last_gap(of, of.gaps < anchor))
    low = -80.0 if epsilon(edge) > 1e-10 else -600.0
    start = ops.log(ops.maximum(edge - anchor, epsilon(edge) * edge))
    floor, noise = tiny(edge), 4.0 * epsilon(edge)

    def excess(at: Any) -> At:
        divergence, slope = _divergence(of, order, anchor, ops.exp(-at))
        error = ops.log(ops.maximum(divergence, floor) / radius)
        near = ops.abs(divergence - radius) <= noise * (1.0 + radius)
        step = -error * divergence / ops.maximum(slope, floor)
        return At(error, step, ops.logical_or(near, held))

    ends = ops.full_like(edge, -1.0), ops.full_like(edge, -low)
    rise = ops.exp(-increasing_root(excess, -start, *ends, reduce=of.reduce, maximum=_MAXIMUM))
    q = of.share * _above(of, anchor, rise) ** (1.0 / (order - 1.0))
    return q / ops.maximum(of.reduce.sum(q), floor)


def _last_gap(of: Rows, chosen: Any) -> Any:
    """Greatest of the chosen gaps; 0 is that of the greatest loss."""
    return of.reduce.max(ops.where(chosen, of.gaps, ops.zeros_like(of.gaps)))


def _above(of: Rows, anchor: Any, rise: Any) -> Any:
    """(c - g)_+ over that of the greatest loss: near the anchor the difference does not round."""
    top = ops.maximum(anchor + rise, tiny(rise))
    return ops.maximum((anchor - of.gaps) + rise, 0.0) / top


def _divergence(of: Rows, order: float, anchor: Any, rise: Any) -> tuple[Any, Any]:
    """R_order, and its derivative to -log rise."""
    s, floor = 1.0 / (order - 1.0), tiny(rise)
    height = _above(of, anchor, rise)
    inside = height > 0
    safe = ops.where(inside, height, ops.ones_like(height))
    steep = ops.where(inside, of.share * safe ** (s - 1.0), ops.zeros_like(height))
    level = steep * height
    terms = (s / of.total for s in of.reduce.sums([steep, level, level * height]))
    z0, z1, z2 = (ops.maximum(term, floor) for term in terms)
    divergence = (ops.log(z2) - order * ops.log(z1)) / (order * (order - 1.0))
    share = rise / ops.maximum(anchor + rise, floor)
    slope = share * (s * s) * ops.maximum(z0 / z1 - z1 / z2, 0.0)
    return divergence, slope
