"""The block `model` of a recipe: the network, and what its logits may pass through at the end.

A kind of network joins by a block here, in `Model`, and a row in `NETWORKS` of `_run_model`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from keras_robustseg._recipe_fields import Block, number, number_or, odd, text, whole


class TVHead(Block):
    """The logits become the labelling of least cost and perimeter; trained through its solution."""

    kind: Literal["tv_segmentation"] = "tv_segmentation"
    weight: Annotated[float | Literal["learned"], number_or("learned", ge=0)] = Field(
        "learned", description="of the perimeter: one for each class, learned, or a given number"
    )
    initial_weight: Annotated[float, number(gt=0)] = Field(
        0.3, description="what learned weights start from"
    )
    epsilon: Annotated[float, number(gt=0)] = Field(
        0.5, description="weight of the squares; more of it makes softer labels"
    )
    smoothing: Annotated[float, number(ge=0)] = Field(
        0.0, description="width of Huber's function in place of |.|; 0 for none"
    )
    isotropic: bool = Field(False, description="penalise lengths of gradients, not each axis")
    iterations: Annotated[int, whole(ge=1, le=100_000)] = Field(
        200, description="of the solver, at most"
    )
    tolerance: Annotated[float, number(gt=0)] = Field(
        1e-4, description="duality gap of a pixel, relative to 1 + the spread of its logits"
    )
    adjoint: Literal["implicit", "unrolled"] = Field(
        "implicit", description="how the solution is differentiated"
    )
    adjoint_iterations: Annotated[int, whole(ge=1, le=100_000)] = Field(
        100, description="of the linear system of the derivative, at most"
    )
    adjoint_tolerance: Annotated[float, number(gt=0)] = Field(
        1e-3, description="relative residual of that system"
    )


_HEAD = Field(None, description="what the logits pass through; null for nothing")


class UNet(Block):
    """A U-Net, 2-D or 3-D as the data are."""

    kind: Literal["unet"] = "unet"
    width: Annotated[int, whole(ge=1, le=1024)] = Field(16, description="channels, first level")
    depth: Annotated[int, whole(ge=1, le=8)] = Field(4, description="times the size is halved")
    norm: Literal["batch", "group"] = "batch"
    dropout: Annotated[float, number(ge=0, lt=1)] = 0.0
    deep_supervision: bool = False
    head: TVHead | None = _HEAD


class Hub(Block):
    """A keras-hub segmenter (needs the extra `hub`)."""

    kind: Literal["hub"] = "hub"
    preset: Annotated[str, text()] = Field(description="name of a keras-hub preset, or a folder")
    head: TVHead | None = _HEAD


class Equilibrium(Block):
    """A convolution of infinite depth: the fixed point of a monotone network, and a 1x1 head."""

    kind: Literal["equilibrium"] = "equilibrium"
    units: Annotated[int, whole(ge=1, le=1024)] = Field(16, description="channels of the state")
    kernel_size: Annotated[int, odd(le=31)] = Field(3, description="of its convolutions, odd")
    margin: Annotated[float, number(gt=0, le=1)] = Field(
        0.5, description="of monotonicity; a small one takes more iterations"
    )
    adjoint: Literal["splitting", "gmres"] = Field(
        "splitting", description="how the linear system of the derivative is solved"
    )
    iterations: Annotated[int, whole(ge=1, le=100_000)] = Field(
        500, description="of the equilibrium, at most"
    )
    tolerance: Annotated[float, number(gt=0, lt=1)] = Field(1e-3, description="relative residual")
    head: TVHead | None = _HEAD


class UnrolledProximal(Block):
    """Steps of a proximal method with learned steps and penalties, and a convolution as a head."""

    kind: Literal["unrolled_proximal"] = "unrolled_proximal"
    channels: Annotated[int, whole(ge=2, le=4096)] = Field(32, description="of the codes")
    kernel_size: Annotated[int, odd(le=63)] = Field(7, description="of the dictionary, odd")
    steps: Annotated[int, whole(ge=1, le=1000)] = Field(8, description="that are unrolled")
    penalty: Literal["l1", "nonnegative_l1", "simplex"] = Field(
        "nonnegative_l1", description="what the codes pay"
    )
    initial_penalty: Annotated[float, number(gt=0)] = Field(
        0.05, description="what its learned weights start from"
    )
    head_kernel_size: Annotated[int, odd(le=63)] = Field(
        3, description="of the convolution from codes to logits, odd"
    )
    head: TVHead | None = _HEAD


Model = Annotated[UNet | Hub | Equilibrium | UnrolledProximal, Field(discriminator="kind")]
