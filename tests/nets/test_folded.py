"""Folded images: a convolution and its max-pool, both passes, against the same by the compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.nets.conv.conv2d import conv2d
from fedjax_mri.nets.conv.folded import conv_max_pool
from fedjax_mri.nets.conv.pool import max_pool


@pytest.mark.parametrize(("size", "side", "inputs", "outputs"), [((12, 14), 5, 3, 6), ((8, 8), 3, 6, 2)])
def test_it_is_a_convolution_and_a_max_pool(size: tuple[int, int], side: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, inputs)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(side, side, inputs, outputs)).astype(np.float32))
    weights = jnp.asarray(rng.normal(size=outputs).astype(np.float32)).reshape(1, 1, 1, -1)

    def of_folded(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = conv_max_pool(x, kernel, "direct")
        return jnp.sum(jnp.sin(y) * weights), y

    def plain(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = max_pool(conv2d(x, kernel, 1, "xla", 0))
        return jnp.sum(jnp.sin(y) * weights), y

    found, wanted = (jax.jit(jax.grad(way, (0, 1), has_aux=True))(x, kernel) for way in (of_folded, plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "side"), [((7, 8), 3), ((8, 8), 4)])
def test_sides_that_do_not_fold_are_refused(size: tuple[int, int], side: int) -> None:
    with pytest.raises(ValueError, match="must be even, and odd"):
        conv_max_pool(jnp.zeros((1, *size, 2)), jnp.zeros((side, side, 2, 2)), "direct")
