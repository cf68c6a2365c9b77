"""Layer-wise relevance propagation (Bach et al. 2015): the score handed back, layer by layer, to the pixels."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.method import Method, Scores, chosen, gradient
from fedjax_mri.xai.relevance import Rules, Spread, relevant, total

TINY = 1e-20


@dataclass(frozen=True)
class LRP:
    """Rules, for a layer whose result z is the sum of contributions z+ and z- of its inputs and bias:

    `epsilon`: in proportion to the contributions, over z + epsilon sign z; at epsilon 0, gradient times image.
    `gamma`: likewise, contributions of z's own sign counted 1 + gamma times (Montavon et al. 2019).
    `alphabeta`: alpha in proportion within z+, -beta within z-, where alpha - beta = 1.
    `composite`: z+ alone (alpha 1, beta 0) in layers [B, h, w, C], epsilon in dense ones (Kohlbrenner et al. 2020).
    """

    rule: Literal["epsilon", "gamma", "alphabeta", "composite"] = "composite"
    epsilon: float = 0.01  # times the root mean square of a layer's results
    gamma: float = 0.25
    alpha: float = 2.0
    beta: float = 1.0

    def build(self) -> Method:
        """Raises UserError on settings that cannot be; on a network that has no rule, when called."""
        rules = self.rules()

        def method(scores: Scores, x: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
            return (x * gradient(relevant(scores, rules), x, target)).sum(-1)

        return method

    def rules(self) -> Rules:
        """The rule as a function. Raises UserError on settings that cannot be."""
        if self.epsilon < 0 or self.gamma < 0 or self.beta < 0:
            raise UserError(f"epsilon={self.epsilon}, gamma={self.gamma}, beta={self.beta}: give 0 or more of each")
        if abs(self.alpha - self.beta - 1) > 1e-6:
            raise UserError(f"alpha={self.alpha}, beta={self.beta}: give alpha = 1 + beta, so that relevance is kept")
        known: dict[str, Spread] = {
            "epsilon": by_all(self.epsilon),
            "gamma": by_favoured(self.gamma, self.epsilon),
            "alphabeta": by_sign(self.alpha, self.beta, self.epsilon),
            "composite": by_shape(by_sign(1.0, 0.0, self.epsilon), by_all(self.epsilon)),
        }
        if self.rule not in known:
            raise UserError(f"rule={self.rule}: give one of {', '.join(known)}")
        return Rules(known[self.rule], self.rule != "epsilon")


def residual(scores: Scores, x: jax.Array, target: jax.Array, relevance: jax.Array) -> jax.Array:
    """The share [B] of each target logit that a map [B, H, W] does not hold: what biases, norms and epsilon took."""
    logit = chosen(scores, x, target)
    return (logit - relevance.sum((1, 2))) / logit


def by_all(epsilon: float) -> Spread:
    def spread(
        relevance: jax.Array, raised: jax.Array, lowered: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        slope = relevance / steady(total(raised, lowered), epsilon)
        return slope, None if lowered is None else slope

    return spread


def by_favoured(gamma: float, epsilon: float) -> Spread:
    def spread(
        relevance: jax.Array, raised: jax.Array, lowered: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        if lowered is None:
            return by_all(epsilon)(relevance, raised, lowered)
        z = raised + lowered
        up = (z >= 0).astype(z.dtype)
        slope = relevance / steady(z + gamma * (up * raised + (1 - up) * lowered), epsilon)
        return slope * (1 + gamma * up), slope * (1 + gamma * (1 - up))

    return spread


def by_sign(alpha: float, beta: float, epsilon: float) -> Spread:
    def spread(
        relevance: jax.Array, raised: jax.Array, lowered: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        slope = alpha * relevance / steady(raised, epsilon)
        if lowered is None or not beta:
            return slope, None
        return slope, -beta * relevance / steady(lowered, epsilon, -1.0)

    return spread


def by_shape(images: Spread, dense: Spread) -> Spread:
    """One rule in layers [B, h, w, C], another in all others."""
    return lambda relevance, *parts: (images if relevance.ndim == 4 else dense)(relevance, *parts)


def steady(z: jax.Array, epsilon: float, sign_of_zero: float = 1.0) -> jax.Array:
    """z moved away from 0 by a share of its root mean square over each example."""
    scale = jnp.sqrt(jnp.square(z).mean(tuple(range(1, z.ndim)), keepdims=True))
    sign = jnp.where(z == 0, jnp.full_like(z, sign_of_zero), jnp.sign(z))
    return z + sign * (epsilon * scale + TINY)
