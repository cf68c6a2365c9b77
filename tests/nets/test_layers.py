"""The one convolution under both policies, the norms, the pools: against float64 loops and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from fedjax_mri.nets.cnn import CNN
from fedjax_mri.nets.functional import functional
from fedjax_mri.nets.layers import (
    Norm,
    around,
    conv2d,
    conv2d_transpose,
    group_norm,
    instance_norm,
    max_pool,
    overlapping_max_pool,
)


@pytest.mark.parametrize("policy", ["xla", "gemm"])
@pytest.mark.parametrize("outputs", [4, 1])
@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"),
    [
        ((6, 6), (3, 3), 1, "SAME"),
        ((7, 5), (3, 3), 2, "SAME"),
        ((5, 8), (1, 1), 2, "SAME"),
        ((8, 7), (7, 7), 2, around(3)),
        ((7, 8), (4, 3), 1, ((0, 2), (1, 0))),
    ],
)
def test_convolution_equals_a_loop(policy, size, window, stride, padding, outputs) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 4)).astype(np.float32)
    kernel = rng.normal(size=(*window, 4, outputs)).astype(np.float32)
    pads = reference.same(size, window, stride) if padding == "SAME" else padding
    wanted = reference.conv(x, kernel, stride, pads)
    np.testing.assert_allclose(conv2d(x, kernel, stride, policy, padding), wanted, atol=2e-5)


@pytest.mark.parametrize("policy", ["xla", "gemm"])
def test_transposed_convolution_scatters_each_pixel(policy) -> None:
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=size).astype(np.float32) for size in ((2, 3, 4, 3), (3, 3, 3, 5)))
    wanted = np.zeros((2, 8, 10, 5))  # one pixel beyond each edge
    for i, j, k, l in np.ndindex(3, 4, 3, 3):
        wanted[:, 2 * i + k, 2 * j + l] += x[:, i, j] @ kernel[k, l]
    np.testing.assert_allclose(conv2d_transpose(x, kernel, policy), wanted[:, 1:7, 1:9], atol=1e-5)


@pytest.mark.parametrize("outputs", [4, 1])
def test_policies_have_the_same_gradients_under_vmap_over_kernels(outputs) -> None:
    shapes = [(2, 6, 6, 4), (3, 3, 3, 4, outputs)]
    x, kernels = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes))

    def gradient(policy):
        loss = lambda k, x: jnp.sum(jnp.sin(conv2d(x, k, 1, policy)))  # noqa: E731
        return jax.vmap(jax.grad(loss, (0, 1)), (0, None))(kernels, x)

    for a, b in zip(gradient("xla"), gradient("gemm")):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_group_norm_equals_flax() -> None:
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 5, 16))
    reference = nnx.GroupNorm(16, 8, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(group_norm(x, 8), reference(x), atol=2e-5)


def test_batch_norm_leaves_padding_out() -> None:
    x, weight = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)), jnp.array([1.0, 1, 1, 0])
    norm = Norm(2, "batch", rngs=nnx.Rngs(0))
    whole = norm(x, weight, True)[:3]
    alone = Norm(2, "batch", rngs=nnx.Rngs(0))(x[:3], weight[:3], True)
    np.testing.assert_allclose(whole, alone, atol=1e-6)
    np.testing.assert_allclose(norm.batch.mean[...], 0.1 * x[:3].mean((0, 1, 2)), atol=1e-6)


def test_max_pool_takes_the_largest_and_drops_an_odd_edge() -> None:
    x = jnp.arange(2 * 5 * 4, dtype=jnp.float32).reshape(1, 5, 8, 1)
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[9, 11, 13, 15], [25, 27, 29, 31]])


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_overlapping_max_pool_sees_three_by_three(size) -> None:
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, *size, 3)))
    np.testing.assert_array_equal(overlapping_max_pool(jnp.asarray(x)), reference.max_pool(x))


def test_instance_norm_is_by_image_and_channel() -> None:
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 9, 5, 4))
    wanted = (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(instance_norm(x), wanted, atol=2e-5)


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_a_net_is_two_pure_functions(norm) -> None:
    net = functional(lambda rngs: CNN(8, 1, 3, widths=(8, 16), hidden=4, norm=norm, rngs=rngs))
    params, carry = net.init(jax.random.key(0))
    logits, after = net.apply(params, carry, jnp.ones((2, 8, 8, 1)), jnp.ones(2), True)
    assert logits.shape == (2, 3)
    assert bool(jax.tree.leaves(carry)) == (norm == "batch")
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    leaves = jax.tree.leaves(params)
    assert all(type(leaf) is type(jnp.zeros(1)) for leaf in leaves)
    weights = 9 * 8 + 9 * 8 * 16 + (4 * 16 + 1) * 4 + (4 + 1) * 3
    assert sum(leaf.size for leaf in leaves) == weights + (24 if norm == "none" else 48)
