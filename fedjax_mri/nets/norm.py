"""Norms of images: GroupNorm, BatchNorm, InstanceNorm, none."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError

NormKind = Literal["group", "batch", "none"]
ImageNorm = Literal["batch", "instance"]  # of networks that make images, and of their discriminators
GROUPS = 8  # of GroupNorm; a layer of fewer channels has a group for each


class Norm(nnx.Module):
    """GroupNorm (default in federated nets), BatchNorm over the examples that are present, InstanceNorm, or none."""

    def __init__(self, features: int, kind: NormKind | ImageNorm, *, groups: int = GROUPS, rngs: nnx.Rngs) -> None:
        self.kind, self.groups = kind, min(groups, features)
        if kind == "group":
            self.scale = nnx.Param(jnp.ones(features, jnp.float32))
            self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        elif kind == "batch":
            self.batch = nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: jax.Array, present: jax.Array | None, train: bool) -> jax.Array:
        """Norms x [B, H, W, C]; BatchNorm counts the examples whose `present` [B] is above 0 (None: all)."""
        if self.kind == "none":
            return x
        if self.kind == "instance":
            return instance_norm(x)
        if self.kind == "batch":
            mask = None if present is None else (present > 0).reshape(-1, 1, 1, 1)
            return self.batch(x, use_running_average=not train, mask=mask).astype(x.dtype)
        shape = (1, 1, 1, -1)
        return group_norm(x, self.groups) * self.scale[...].reshape(shape) + self.bias[...].reshape(shape)


def group_norm(x: jax.Array, groups: int, epsilon: float = 1e-5) -> jax.Array:
    """Each image's groups of channels to mean 0 and variance 1, x [B, H, W, C] (Wu and He 2018).

    Sums run over positions first and over a group's channels after: one pass over x each, no copy by group.
    """
    return _normalised(x, groups, epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalised(x: jax.Array, groups: int, epsilon: float) -> jax.Array:
    return _scaled(x, *_statistics(x, groups, epsilon)).astype(x.dtype)


def _statistics(x: jax.Array, groups: int, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Returns mean and 1 / deviation of each image's groups, [B, 1, 1, C] each, in float32."""
    x = x.astype(jnp.float32)
    mean = _group_mean(x, groups)
    variance = jnp.maximum(_group_mean(jnp.square(x), groups) - jnp.square(mean), 0.0)
    return mean, jax.lax.rsqrt(variance + epsilon)


def _group_mean(x: jax.Array, groups: int) -> jax.Array:
    members = x.shape[-1] // groups
    by_group = x.mean((1, 2)).reshape(-1, groups, members).mean(-1)
    return jnp.repeat(by_group, members, axis=-1)[:, None, None, :]


def _scaled(x: jax.Array, mean: jax.Array, factor: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) * factor - mean * factor


def _forward(x: jax.Array, groups: int, epsilon: float) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mean, factor = _statistics(x, groups, epsilon)
    return _scaled(x, mean, factor).astype(x.dtype), (x, mean, factor)


def _backward(groups: int, epsilon: float, saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array]:
    """Returns the gradient by x. Only x is saved at full size; the gradient that JAX derives would save x twice."""
    x, mean, factor = saved
    y, wide = _scaled(x, mean, factor), gradient.astype(jnp.float32)
    slope = wide - _group_mean(wide, groups) - y * _group_mean(wide * y, groups)
    return ((factor * slope).astype(x.dtype),)


_normalised.defvjp(_forward, _backward)


def instance_norm(x: jax.Array) -> jax.Array:
    """Each image's channels to mean 0 and variance 1, x [B, H, W, C] (Ulyanov et al. 2016), without scale and bias."""
    return group_norm(x, x.shape[-1])


def check_groups(field: str, widths: Sequence[int], norm: NormKind) -> None:
    """Raises UserError, naming the `field` of the widths, where GroupNorm cannot part channels into equal groups."""
    if norm == "group" and any(width > GROUPS and width % GROUPS for width in widths):
        given = widths[0] if len(widths) == 1 else tuple(widths)
        raise UserError(f"{field}={given}: GroupNorm wants multiples of {GROUPS} (or network.norm=batch)")
