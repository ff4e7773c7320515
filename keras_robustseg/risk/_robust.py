"""Distributionally robust measures: balls and penalties of a divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_robustseg.risk._balls import check_divergence, divergence_ball
from keras_robustseg.risk._measure import RiskMeasure, checked, plain
from keras_robustseg.risk._penalties import check_penalty, divergence_penalty
from keras_robustseg.risk._profiles import check_conjugate
from keras_robustseg.risk._reduce import LOCAL, Local, gathered

_register = keras.saving.register_keras_serializable(package="keras_robustseg")

Divergence = str | Callable[[Any], Any]


@_register
class DivergenceBall(RiskMeasure):
    """Worst case over all weights within a divergence of the base; see `divergence_ball`.

    "kl" is EVaR at level exp(-radius); "tv" is radius max + (1 - radius) CVaR_{1 - radius};
    "chi2" is mean + sqrt(radius) std as long as that gives no negative weight.

    Args:
        divergence: "kl", "reverse_kl", "chi2", "neyman", "hellinger", "tv", "jeffreys", "renyi";
            or the convex conjugate phi* of a divergence sum p phi(q / p), an increasing function
            in `keras.ops` with phi*(0) = 0 and slope 1 there, infinite or NaN above its domain, and
            exact near 0: `expm1(s)`, not `exp(s) - 1`.
        radius: 0 or more. 0 is the mean; from some radius on (1 for "tv", 2 for "hellinger", -log
            of the base mass of the greatest loss for "kl") it is the worst case.
        order: of "renyi" only: positive and not 1.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: there is no such divergence, or a parameter is out of range.

    Example:
        `DivergenceBall("kl", 0.1)(keras.ops.array([1.0, 2.0, 4.0]))`
    """

    def __init__(
        self,
        divergence: Divergence,
        radius: Any,
        order: float | None = None,
        stance: str = "pessimistic",
    ) -> None:
        super().__init__(stance)
        check_divergence(divergence, order)
        if callable(divergence):
            check_conjugate(divergence)
        self.divergence = divergence
        self.radius = checked("radius", radius, 0.0)
        self.order = order

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk and its weights."""

        def kernel(x: Any, w: Any, reduce: Local = LOCAL) -> tuple[Any, Any]:
            ball = (self.divergence, self.radius, self.order, self.stance)
            return divergence_ball(x, w, *ball, reduce=reduce)

        if callable(self.divergence) or self.divergence == "jeffreys":
            # A root inside of a root: too many exchanges between replicas.
            return gathered(kernel, losses, weights, reduce)
        return kernel(losses, weights, reduce)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {
            "divergence": _saved(self.divergence),
            "radius": plain(self.radius),
            "order": self.order,
        }
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DivergenceBall:
        """Return the measure with these arguments."""
        return cls(**_loaded(config, "divergence"))


@_register
class DivergencePenalty(RiskMeasure):
    """Worst case of <q, l> - weight D(q, p); see `divergence_penalty`.

    "kl" is `EntropicRisk(weight)`.

    Args:
        divergence: as in `DivergenceBall`, without "renyi".
        weight: positive, in units of the loss.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: there is no such divergence, or the weight is not positive.

    Example:
        `DivergencePenalty("chi2", 2.0)(keras.ops.array([1.0, 2.0, 4.0]))`
    """

    def __init__(self, divergence: Divergence, weight: Any, stance: str = "pessimistic") -> None:
        super().__init__(stance)
        check_penalty(divergence)
        if callable(divergence):
            check_conjugate(divergence)
        self.divergence = divergence
        self.weight = checked("weight", weight, 0.0, open_low=True)

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk and its weights."""
        options: dict[str, Any] = {"stance": self.stance, "reduce": reduce}
        return divergence_penalty(losses, weights, self.divergence, self.weight, **options)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"divergence": _saved(self.divergence), "weight": plain(self.weight)}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DivergencePenalty:
        """Return the measure with these arguments."""
        return cls(**_loaded(config, "divergence"))


@_register
class OCE(DivergencePenalty):
    """Optimised certainty equivalent: min over eta of eta + scale E u((l - eta) / scale).

    u is convex and increasing with u(0) = 0 and u'(0) = 1, a disutility of losses (Ben-Tal and
    Teboulle, Mathematical Finance 2007). It is the penalty of weight `scale` of the divergence
    whose conjugate is u.

    Args:
        disutility: u, a function in `keras.ops`, strictly convex where it increases.
        scale: positive, in units of the loss.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: u is no such function, or the scale is not positive.

    Example:
        `OCE(lambda s: keras.ops.expm1(s))(losses)  # EntropicRisk(1.0)`
    """

    def __init__(
        self, disutility: Callable[[Any], Any], scale: Any = 1.0, stance: str = "pessimistic"
    ) -> None:
        if not callable(disutility):
            raise ValueError(f"`disutility` must be a function. Received: {disutility!r}")
        super().__init__(disutility, scale, stance)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        config = super().get_config()
        return {
            "disutility": config["divergence"],
            "scale": config["weight"],
            "stance": self.stance,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OCE:
        """Return the measure with these arguments."""
        return cls(**_loaded(config, "disutility"))


@_register
class EVaR(RiskMeasure):
    """Entropic value at risk: the "kl" ball of radius -log alpha, an upper bound of CVaR(alpha).

    min over t > 0 of t log(sum p exp(l / t) / alpha) (Ahmadi-Javid, JOTA 2012).

    Args:
        alpha: level in (0, 1]; 1 is the mean.
        stance: "pessimistic" or "optimistic".

    Raises:
        ValueError: the level is out of range.

    Example:
        `EVaR(0.1)(keras.ops.array([1.0, 2.0, 4.0]))`
    """

    def __init__(self, alpha: Any, stance: str = "pessimistic") -> None:
        super().__init__(stance)
        self.alpha = checked("alpha", alpha, 0.0, 1.0, open_low=True)

    def solve(self, losses: Any, weights: Any, reduce: Local) -> tuple[Any, Any]:
        """Return the risk and its weights."""
        alpha = ops.cast(self.alpha, losses.dtype) if hasattr(self.alpha, "dtype") else self.alpha
        alpha = ops.convert_to_tensor(alpha, dtype=losses.dtype)
        return divergence_ball(
            losses, weights, "kl", -ops.log(alpha), stance=self.stance, reduce=reduce
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "alpha": plain(self.alpha)}


def _saved(divergence: Divergence) -> Any:
    if isinstance(divergence, str):
        return divergence
    return keras.saving.serialize_keras_object(divergence)


def _loaded(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The configuration with a saved function put back."""
    if isinstance(config[name], dict):
        return {**config, name: keras.saving.deserialize_keras_object(config[name])}
    return config
