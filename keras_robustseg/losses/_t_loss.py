"""T-loss: the likelihood of a Student-t distribution of the error of whole images."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_robustseg.losses._base import SegmentationLoss

# Where the degrees of freedom are looked for. Below, the density has a spike at error 0 whose
# gradient swamps all else; above, it is Gaussian to four digits.
_LOWEST, _HIGHEST = 1e-2, 1e4
# Each round keeps one of 16 parts: 16^6 parts are finer than float32 can tell.
_ROUNDS, _PARTS = 6, 16


def image_errors(log_p: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
    """Return m_b = mean_i (1/2) |y_i - p_i|^2 of each image (B,), and its weight sum_i w_i (B,).

    m is between 0 and 1; for two classes it is the mean of (y_1 - p_1)^2. An image without weight
    has error 0.

    Args:
        log_p: (B, *S, C) log-probabilities.
        labels: (B, *S, C) label distributions y.
        weights: (B, *S) base weights of the pixels.

    Example:
        `errors, weight = image_errors(log_p, labels, weights)`
    """
    axes = tuple(range(1, len(weights.shape)))
    pixel = 0.5 * ops.sum(ops.square(labels - ops.exp(log_p)), axis=-1)
    total = ops.sum(weights, axis=axes)
    return ops.divide_no_nan(ops.sum(weights * pixel, axis=axes), total), total


def student_t_loss(errors: Any, nu: Any, *, dimension: int) -> Any:
    """Return ((nu + d) / (2 d)) log(1 + d m / nu) of each image, d the dimension.

    1/d times the negative log-likelihood of a d-variate Student-t distribution with unit scale and
    nu degrees of freedom, at squared distance d m, without its constant (Gonzalez-Jimenez et al.,
    MICCAI 2023). nu -> infinity is the squared error m / 2. An image far off,
    m >> nu / d, has a gradient in proportion to 1 / m.

    Args:
        errors: m (B,), of `image_errors`.
        nu: degrees of freedom, above 0.
        dimension: d, how many independent pixels an image counts as. The paper takes H W, which
            makes the loss grow with the image, and nu lose all meaning unless m is near nu / d.

    Returns:
        (B,), 0 at m = 0.

    Example:
        `student_t_loss(errors, 1.0, dimension=256)`
    """
    return (0.5 + 0.5 * nu / dimension) * ops.log1p(dimension * errors / nu)


def student_t_normalizer(nu: Any, *, dimension: int) -> Any:
    """Return 1/d times the log of the normalising constant, relative to the Gaussian's.

    (1/d) log[ (nu/2)^(d/2) Gamma(nu/2) / Gamma((nu + d)/2) ] = -(1/d) sum_{k < d/2} log(1 + 2k/nu)
    for even d; the sum needs no Gamma function and cancels nothing.

    Args:
        nu: degrees of freedom, any shape.
        dimension: d, even.

    Example:
        `student_t_normalizer(keras.ops.array(1.0), dimension=256)`
    """
    return -ops.sum(ops.log1p(_steps(dimension) / nu[..., None]), axis=-1) / dimension


def likeliest_nu(errors: Any, weights: Any, *, dimension: int) -> Any:
    """Return the nu in [.01, 10000] under which the errors of a batch are most likely.

    The root of the derivative to log nu of the mean of `student_t_loss` plus
    `student_t_normalizer`, by 6 rounds on 17 points. No gradient runs through it: the loss at its
    minimum over nu has that of the loss with nu held fixed.

    Args:
        errors: m (B,), of `image_errors`.
        weights: (B,) weights of the images.
        dimension: d, even.

    Returns:
        A scalar.

    Example:
        `nu = likeliest_nu(*image_errors(log_p, labels, weights), dimension=256)`
    """
    errors, share = ops.stop_gradient(errors), ops.stop_gradient(weights)
    share = ops.divide_no_nan(share, ops.sum(share))
    low, width = math.log(_LOWEST), math.log(_HIGHEST / _LOWEST)
    grid = ops.arange(_PARTS + 1, dtype="float32") / _PARTS
    for _ in range(_ROUNDS):
        slopes = _slope(ops.exp(low + width * grid), errors, share, dimension)
        # The slope has one change of sign: this counts the points before it.
        before = ops.sum(ops.cast(slopes[1:-1] < 0, "float32"))
        low, width = low + width * before / _PARTS, width / _PARTS
    return ops.stop_gradient(ops.exp(low + 0.5 * width))


def _slope(nu: Any, errors: Any, share: Any, dimension: int) -> Any:
    """2 d times the derivative to log nu of the mean negative log-likelihood, nu (K,)."""
    ratio = dimension * errors / nu[:, None]
    likelihood = nu[:, None] * ops.log1p(ratio) - (nu[:, None] + dimension) * ratio / (1 + ratio)
    steps = _steps(dimension)
    constant = 2 * ops.sum(steps / (nu[:, None] + steps), axis=-1)
    return ops.sum(share * likelihood, axis=-1) + constant


def _steps(dimension: int) -> Any:
    return ops.convert_to_tensor(np.arange(0, dimension, 2), dtype="float32")


@keras.saving.register_keras_serializable(package="keras_robustseg")
class TLoss(SegmentationLoss):
    """Mean over images of `student_t_loss`; an image weighs as much as its pixels together.

    For masks of which some are wrong altogether: such images lose their pull. The value does not
    depend on the size of the images, and is at least 0. Unreduced, every pixel carries the loss
    of its image.

    A Keras loss has no weights, so nu is not trained by the optimiser: "likeliest" takes, for each
    batch, the nu that maximises the likelihood of its images, which is what training nu to the
    end would give (`likeliest_nu`). The normalising constant, which then matters, is counted from
    its value at the least nu.

    Args:
        nu: degrees of freedom, above 0, or "likeliest".
        dimension: d, even: how many independent pixels an image counts as, whatever its size. The
            paper's loss is that of d = H W, times d.
        **kwargs: arguments of `SegmentationLoss`.

    Raises:
        ValueError: `nu` or `dimension` is out of its range.

    Example:
        `losses.TLoss(nu="likeliest")(mask, logits)`
    """

    def __init__(
        self,
        nu: float | Literal["likeliest"] = 1.0,
        *,
        dimension: int = 256,
        **kwargs: Any,
    ) -> None:
        if nu != "likeliest" and (isinstance(nu, str) or not 0.0 < nu < math.inf):
            raise ValueError(f"`nu` must be a number above 0, or 'likeliest'. Received: nu={nu!r}")
        if dimension < 2 or dimension % 2:
            raise ValueError(f"`dimension` must be even, 2 or more. Received: {dimension}")
        super().__init__(**kwargs)
        self.nu = nu
        self.dimension = dimension

    def terms(self, log_p: Any, labels: Any, weights: Any) -> list[tuple[Any, Any]]:
        """Return the loss of each image, and the weights of the pixels."""
        errors, total = image_errors(log_p, labels, weights)
        values = self._values(errors, total)
        return [(ops.reshape(values, (-1, *(1,) * (len(weights.shape) - 1))), weights)]

    def _values(self, errors: Any, total: Any) -> Any:
        if self.nu != "likeliest":
            return student_t_loss(errors, self.nu, dimension=self.dimension)
        nu = likeliest_nu(errors, total, dimension=self.dimension)
        ends = ops.stack([nu, ops.convert_to_tensor(_LOWEST, dtype="float32")])
        constants = student_t_normalizer(ends, dimension=self.dimension)
        values = student_t_loss(errors, nu, dimension=self.dimension)
        return values + ops.maximum(constants[0] - constants[1], 0.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "nu": self.nu, "dimension": self.dimension}
