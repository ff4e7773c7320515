"""Steps of the label logits: minus the gradient of each of PENCIL's label problems, times C.

All are closed form: no tape, no loss scale and no batch size is in them. Each takes what the
problem needs and returns (B, *S, C-1), relative to class 0, per unit of `label_rate`.
"""

from __future__ import annotations

from typing import Any

from keras import ops


def row_step(p: Any, q: Any, yhat: Any, *, flip_margin: Any) -> Any:
    """Return the step of the paper's problem, KL(p || q)/C + alpha CE(yhat, q).

        -C dL/dlogits = (p - q) + alpha C (yhat - q),      alpha C = flip_margin

    Args:
        p: (B, *S, C) probabilities of the network.
        q: (B, *S, C) label distribution.
        yhat: (B, *S, C) given mask.
        flip_margin: a number, or an array that broadcasts to (B, *S, 1).
    """
    return _relative((p - q) + flip_margin * (yhat - q))


def official_row_step(p: Any, q: Any, yhat: Any, *, flip_margin: Any) -> Any:
    """Return the step of the released program, KL(p || q)/C + alpha CE(yhat, softmax(q)).

    The program hands q, which is a softmax already, to a loss that takes a softmax again. The
    pull to the given mask is bounded by that, and vanishes where q is one-hot, at any class:

        -C dL/dlogits = (p - q) + alpha C q (g - <q, g>),      g = yhat - softmax(q)

    Args:
        p, q, yhat, flip_margin: as in `row_step`.
    """
    pull = yhat - ops.softmax(q, axis=-1)
    return _relative((p - q) + flip_margin * _through_softmax(q, pull))


def label_first_row_step(log_p: Any, log_q: Any, yhat: Any, *, flip_margin: Any) -> Any:
    """Return the step of KL(q || p)/C + alpha CE(yhat, q).

        -C dL/dlogits = q (log(p/q) - <q, log(p/q)>) + alpha C (yhat - q)

    Args:
        log_p: (B, *S, C) log probabilities of the network.
        log_q: (B, *S, C) log label distribution.
        yhat, flip_margin: as in `row_step`.
    """
    q = ops.exp(log_q)
    return _relative(_through_softmax(q, log_p - log_q) + flip_margin * (yhat - q))


def geometric_row_step(log_p: Any, log_q: Any, log_start: Any, *, flip_margin: Any) -> Any:
    """Return the step of KL(q || p)/C + alpha KL(q || y), with log y = `log_start`.

        -C dL/dlogits = q (g - <q, g>),      g = log(p/q) + alpha C log(y/q)

    Args:
        log_p, log_q, flip_margin: as in `label_first_row_step`.
        log_start: (B, *S, C) log of the given mask, away from zero.
    """
    pull = (log_p - log_q) + flip_margin * (log_start - log_q)
    return _relative(_through_softmax(ops.exp(log_q), pull))


def _through_softmax(q: Any, gradient: Any) -> Any:
    """A gradient with respect to q, carried to the logits of q."""
    return q * (gradient - ops.sum(q * gradient, axis=-1, keepdims=True))


def _relative(step: Any) -> Any:
    return step[..., 1:] - step[..., :1]
