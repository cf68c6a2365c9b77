"""The one convolution under both policies, the norms, the pool: against float64 loops and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_mri.nets.cnn import CNN
from fedjax_mri.nets.functional import functional
from fedjax_mri.nets.layers import Norm, conv2d, group_norm, max_pool


def loop(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """A "SAME" convolution one output at a time, float64."""
    height, width, _, outputs = kernel.shape
    size = [-(-n // stride) for n in x.shape[1:3]]
    total = [max((o - 1) * stride + k - n, 0) for o, k, n in zip(size, (height, width), x.shape[1:3])]
    padded = np.pad(x.astype(np.float64), ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    y = np.zeros((len(x), *size, outputs))
    for i, j in np.ndindex(*size):
        window = padded[:, i * stride : i * stride + height, j * stride : j * stride + width]
        y[:, i, j] = np.tensordot(window, kernel, 3)
    return y


@pytest.mark.parametrize("policy", ["xla", "gemm"])
@pytest.mark.parametrize(("size", "window", "stride"), [((6, 6), (3, 3), 1), ((7, 5), (3, 3), 2), ((5, 8), (1, 1), 2)])
def test_convolution_equals_a_loop(policy, size, window, stride) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(*window, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(conv2d(x, kernel, stride, policy), loop(x, kernel, stride), atol=1e-5)


def test_policies_have_the_same_gradients_under_vmap_over_kernels() -> None:
    x, kernels = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 6, 6, 3), (3, 3, 3, 3, 4)]))

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
