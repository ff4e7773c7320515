"""Where PENCIL's label problems have their minimum while the network stands still."""

from __future__ import annotations

from typing import Any

from keras import ops

_TINY = 1e-37


def optimal_labels(log_p: Any, yhat: Any, *, flip_margin: Any) -> Any:
    """Return log q*, the label distribution that PENCIL's rows converge to at a fixed network.

        q* = argmin_q KL(p || q)/C + alpha CE(yhat, q) = (1-w) p + w yhat,  w = m/(1+m), m = alpha C

    The most probable class moves from j to k exactly when p_k - p_j > m (the flip rule).

    Args:
        log_p: (..., C) log probabilities.
        yhat: (..., C) given mask.
        flip_margin: m, a number or an array that broadcasts to (..., 1).
    """
    trust = flip_margin / (1.0 + flip_margin)
    return ops.log((1.0 - trust) * ops.exp(log_p) + trust * yhat + _TINY)


def geometric_labels(log_p: Any, log_start: Any, *, flip_margin: Any) -> Any:
    """Return log q* of the label-first problem with KL compatibility, the geometric mean.

        q* = argmin_q KL(q || p)/C + alpha KL(q || y) ~ p^(1-w) y^w,       w = m/(1+m), m = alpha C

    The class moves from j to k exactly when log(p_k/p_j) > m log(y_j/y_k). The least value is
    -(1/C + alpha) log sum p^(1-w) y^w (Chernoff).

    Args:
        log_p: (..., C) log probabilities.
        log_start: (..., C) log y, the given mask away from zero: `log_softmax(initial_logits)`.
        flip_margin: m, a number or an array that broadcasts to (..., 1).
    """
    trust = flip_margin / (1.0 + flip_margin)
    return ops.log_softmax((1.0 - trust) * log_p + trust * log_start, axis=-1)


def lambert_labels(log_p: Any, yhat: Any, *, flip_margin: Any, iterations: int = 8) -> Any:
    """Return log q* of the label-first problem with cross-entropy compatibility.

        q* = argmin_q KL(q || p)/C + alpha CE(yhat, q)

    Stationarity is log(q_c/p_c) - m yhat_c/q_c = mu for every class, m = alpha C, so that with
    Lambert's W

        q_c = m yhat_c / W(m yhat_c e^-mu / p_c),       q_c = p_c e^mu where yhat_c = 0,

    and mu, one number a pixel in [-m, 0], makes the sum 1. log sum q is convex and increasing in
    mu, so Newton's method from mu = 0 comes down on the root from one side. Soft masks too.

    Args:
        log_p: (..., C) log probabilities.
        yhat: (..., C) given mask.
        flip_margin: m, a number or an array that broadcasts to (..., 1).
        iterations: Newton steps; 8 reach float32 precision for m up to 10.
    """
    ratio = ops.log(ops.maximum(flip_margin * yhat, _TINY)) - log_p
    mu = ops.zeros_like(log_p[..., :1])
    for _ in range(iterations):
        omega = wright_omega(ratio - mu)
        log_q = log_p + mu + omega
        total = ops.logsumexp(log_q, axis=-1, keepdims=True)
        share = ops.exp(log_q - total)
        mu = mu - total / ops.sum(share / (1.0 + omega), axis=-1, keepdims=True)
    return ops.log_softmax(log_p + mu + wright_omega(ratio - mu), axis=-1)


def wright_omega(z: Any) -> Any:
    """Return omega(z) = W(e^z) for real z, the solution of omega + log omega = z.

    t = log omega solves t + e^t = z, which is convex and increasing: Newton's method from the
    right of the root needs five steps in float32, and e^z never overflows.

    Example:
        `wright_omega(keras.ops.convert_to_tensor([1.0]))  # 1, since 1 + log 1 = 1`
    """
    z = ops.maximum(z, -87.0)
    t = ops.where(z > 1.0, ops.log(ops.maximum(z, 1.0)), z)
    for _ in range(5):
        omega = ops.exp(t)
        t = t - (t + omega - z) / (1.0 + omega)
    return ops.exp(t)
