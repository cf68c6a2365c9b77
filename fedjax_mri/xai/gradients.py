"""Explanations from the gradient of the score by the image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.baseline import Baseline, baseline
from fedjax_mri.xai.method import Method, Scores, gradient


@dataclass(frozen=True)
class Saliency:
    """The largest channel of the gradient's absolute value (Simonyan et al. 2014): 0 or more, it has no sign."""

    def build(self) -> Method:
        """Returns the method; it has no settings."""
        return lambda scores, x, target, key: jnp.abs(gradient(scores, x, target)).max(-1)


@dataclass(frozen=True)
class SmoothGrad:
    """Saliency of the mean gradient over noisy copies of the image (Smilkov et al. 2017)."""

    samples: int = 16
    noise: float = 0.1  # standard deviation, as a share of the image's range

    def build(self) -> Method:
        """Returns the method. Raises UserError on impossible settings."""
        if self.samples < 1 or self.noise < 0:
            raise UserError(f"samples={self.samples}, noise={self.noise}: give 1 sample or more and noise of 0 or more")

        def method(scores: Scores, x: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
            sd = self.noise * (x.max((1, 2, 3), keepdims=True) - x.min((1, 2, 3), keepdims=True))

            def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
                noisy = x + sd * jax.random.normal(key, x.shape, x.dtype)
                return total + gradient(scores, noisy, target), None

            total, _ = jax.lax.scan(add, jnp.zeros_like(x), jax.random.split(key, self.samples))
            return jnp.abs(total / self.samples).max(-1)

        return method


@dataclass(frozen=True)
class GradientInput:
    """Gradient times image, summed over channels (Shrikumar et al. 2016)."""

    def build(self) -> Method:
        """Returns the method; it has no settings."""
        return lambda scores, x, target, key: (x * gradient(scores, x, target)).sum(-1)


@dataclass(frozen=True)
class IntegratedGradients:
    """The mean gradient on the way from a baseline, times the way (Sundararajan et al. 2017).

    The map sums to the logit less the baseline's, up to the quadrature's error (Gauss and Legendre's nodes).
    """

    baseline: Baseline = "zero"
    steps: int = 50

    def build(self) -> Method:
        """Returns the method, which raises UserError if there is no such baseline.

        Building it raises UserError if there are fewer than 1 step.
        """
        if self.steps < 1:
            raise UserError(f"steps={self.steps}: give 1 or more")
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)
        shares = jnp.asarray((nodes + 1) / 2, jnp.float32), jnp.asarray(weights / 2, jnp.float32)

        def method(scores: Scores, x: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
            start = baseline(self.baseline, x, key)

            def add(total: jax.Array, node: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
                place, weight = node
                return total + weight * gradient(scores, start + place * (x - start), target), None

            mean, _ = jax.lax.scan(add, jnp.zeros_like(x), shares)
            return ((x - start) * mean).sum(-1)

        return method
