"""Norms of images: GroupNorm, BatchNorm, InstanceNorm, none."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError

NormKind = Literal["group", "batch", "none"]
ImageNorm = Literal["batch", "instance"]  # of networks that make images, and of their discriminators
EPSILON = 1e-5  # added to a variance
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


def group_norm(x: jax.Array, groups: int, epsilon: float = EPSILON) -> jax.Array:
    """Brings each image's groups of channels to mean 0 and variance 1, x [B, H, W, C] (Wu and He 2018).

    Sums run over positions first and over a group's channels after: one pass over x each, no copy by group.
    """
    members, dtype = x.shape[-1] // groups, x.dtype
    x = x.astype(jnp.float32)

    def moment(values: jax.Array) -> jax.Array:
        by_group = values.mean((1, 2)).reshape(-1, groups, members).mean(-1)
        return jnp.repeat(by_group, members, axis=-1)[:, None, None, :]

    mean = moment(x)
    variance = jnp.maximum(moment(jnp.square(x)) - jnp.square(mean), 0.0)
    factor = jax.lax.rsqrt(variance + epsilon)
    return (x * factor - mean * factor).astype(dtype)


def instance_norm(x: jax.Array) -> jax.Array:
    """Brings each image's channels to mean 0 and variance 1, x [B, H, W, C], without scale and bias.

    Ulyanov et al. 2016.
    """
    return _by_channel(x)


# The networks with this norm have the largest images. The gradient that JAX derives would save x twice, as it is and
# doubled; this one saves it once. For GroupNorm of small images on a CPU it was a third slower, so that has none.
@jax.custom_vjp
def _by_channel(x: jax.Array) -> jax.Array:
    return _forward(x)[0]


def _forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    values = x.astype(jnp.float32)
    mean = values.mean((1, 2), keepdims=True)
    variance = jnp.maximum(jnp.square(values).mean((1, 2), keepdims=True) - jnp.square(mean), 0.0)
    factor = jax.lax.rsqrt(variance + EPSILON)
    return (values * factor - mean * factor).astype(x.dtype), (x, mean, factor)


def _backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array]:
    x, mean, factor = saved
    wide, values = gradient.astype(jnp.float32), x.astype(jnp.float32)
    first, second = (each.mean((1, 2), keepdims=True) for each in (wide, wide * values))
    slope = factor**3 * (mean * first - second)
    return ((wide * factor + values * slope - (first * factor + mean * slope)).astype(x.dtype),)


_by_channel.defvjp(_forward, _backward)


def check_groups(field: str, widths: Sequence[int], norm: NormKind) -> None:
    """Raises UserError, naming the `field` of the widths, where GroupNorm cannot part channels into equal groups."""
    if norm == "group" and any(width > GROUPS and width % GROUPS for width in widths):
        given = widths[0] if len(widths) == 1 else tuple(widths)
        raise UserError(f"{field}={given}: GroupNorm wants multiples of {GROUPS} (or network.norm=batch)")
