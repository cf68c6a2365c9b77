"""Layer-wise relevance propagation (Bach et al. 2015): the score is spread back to the pixels layer by layer."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.method import Method, Scores, gradient, target_logit
from fedjax_mri.xai.relevance import Rules, Spread, total, with_relevance_gradient

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
        """Returns the method, which raises UserError for a network with an operation that has no rule.

        Building it raises UserError if a setting is out of range, as `rules` says.
        """
        rules = self.rules()

        def method(scores: Scores, x: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
            return (x * gradient(with_relevance_gradient(scores, rules), x, target)).sum(-1)

        return method

    def rules(self) -> Rules:
        """Returns the rule as functions. Raises UserError on impossible settings."""
        if self.epsilon < 0 or self.gamma < 0 or self.beta < 0:
            raise UserError(f"epsilon={self.epsilon}, gamma={self.gamma}, beta={self.beta}: give 0 or more of each")
        if abs(self.alpha - self.beta - 1) > 1e-6:
            raise UserError(f"alpha={self.alpha}, beta={self.beta}: give alpha = 1 + beta, so that relevance is kept")
        known: dict[str, Spread] = {
            "epsilon": epsilon_rule(self.epsilon),
            "gamma": gamma_rule(self.gamma, self.epsilon),
            "alphabeta": alphabeta_rule(self.alpha, self.beta, self.epsilon),
            "composite": composite_rule(alphabeta_rule(1.0, 0.0, self.epsilon), epsilon_rule(self.epsilon)),
        }
        if self.rule not in known:
            raise UserError(f"rule={self.rule}: give one of {', '.join(known)}")
        return Rules(known[self.rule], self.rule != "epsilon")


def residual(scores: Scores, x: jax.Array, target: jax.Array, relevance: jax.Array) -> jax.Array:
    """Returns the share [B] of each target logit that a map [B, H, W] does not hold.

    It is what biases, norms and epsilon took.
    """
    logit = target_logit(scores, x, target)
    return (logit - relevance.sum((1, 2))) / logit


def epsilon_rule(epsilon: float) -> Spread:
    """Returns the rule that spreads relevance in proportion to all contributions."""

    def spread(
        relevance: jax.Array, positive_part: jax.Array, negative_part: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        slope = relevance / stabilised(total(positive_part, negative_part), epsilon)
        return slope, None if negative_part is None else slope

    return spread


def gamma_rule(gamma: float, epsilon: float) -> Spread:
    """Returns the rule that spreads relevance in proportion to contributions.

    Those of the result's own sign are counted 1 + gamma times.
    """

    def spread(
        relevance: jax.Array, positive_part: jax.Array, negative_part: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        if negative_part is None:
            return epsilon_rule(epsilon)(relevance, positive_part, negative_part)
        z = positive_part + negative_part
        up = (z >= 0).astype(z.dtype)
        slope = relevance / stabilised(z + gamma * (up * positive_part + (1 - up) * negative_part), epsilon)
        return slope * (1 + gamma * up), slope * (1 + gamma * (1 - up))

    return spread


def alphabeta_rule(alpha: float, beta: float, epsilon: float) -> Spread:
    """Returns the rule that spreads alpha of the relevance over positive contributions, -beta over negative ones."""

    def spread(
        relevance: jax.Array, positive_part: jax.Array, negative_part: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        slope = alpha * relevance / stabilised(positive_part, epsilon)
        if negative_part is None or not beta:
            return slope, None
        return slope, -beta * relevance / stabilised(negative_part, epsilon, -1.0)

    return spread


def composite_rule(images: Spread, dense: Spread) -> Spread:
    """Returns the rule that spreads relevance by one rule in layers [B, h, w, C], and by another in all others."""
    return lambda relevance, *parts: (images if relevance.ndim == 4 else dense)(relevance, *parts)


def stabilised(z: jax.Array, epsilon: float, sign_of_zero: float = 1.0) -> jax.Array:
    """Returns z moved away from 0 by a share of its root mean square over each example."""
    scale = jnp.sqrt(jnp.square(z).mean(tuple(range(1, z.ndim)), keepdims=True))
    sign = jnp.where(z == 0, jnp.full_like(z, sign_of_zero), jnp.sign(z))
    return z + sign * (epsilon * scale + TINY)
