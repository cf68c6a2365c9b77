"""Class activation maps against their formulas, and where networks are cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.xai import cam
from fedjax_mri.xai.layers import activations, cut
from fedjax_mri.xai.method import gradient
from fedjax_mri.xai.trace import CALLS, traced

TARGET = jnp.array([0, 2])


def scores(x: jax.Array) -> jax.Array:
    return toys.apply(toys.params(), x)


def test_gradcam_on_a_mean_and_a_linear_head_is_cam() -> None:
    x, weights = toys.images(), toys.params()
    maps, dense = np.asarray(toys.features(weights, x), np.float64), np.asarray(weights["dense"], np.float64)
    wanted = np.einsum("bhwc,cb->bhw", maps, dense[:, TARGET]) / 64
    features, tail = cut(scores, x, -1)
    found = cam.by_mean_gradient(features, gradient(tail, features, TARGET))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    logits = np.asarray(scores(x))[np.arange(2), TARGET]
    np.testing.assert_allclose(found.sum((1, 2)) + weights["bias"][TARGET], logits, rtol=1e-4)
    shown = toys.explain(cam.GradCAM(), scores, x, TARGET, jax.random.key(0))
    np.testing.assert_allclose(shown, np.maximum(wanted, 0), rtol=1e-4, atol=1e-6)


def test_the_others_follow_their_equations() -> None:
    rng = np.random.default_rng(0)
    features, slope = (rng.normal(size=(1, 3, 3, 2)) for _ in range(2))
    alpha = slope**2 / (2 * slope**2 + features.sum((1, 2), keepdims=True) * slope**3)
    weights = (alpha * np.maximum(slope, 0)).sum((1, 2), keepdims=True)
    given = [jnp.asarray(array, jnp.float32) for array in (features, slope)]
    np.testing.assert_allclose(cam.by_positive_regions(*given), (weights * features).sum(-1), rtol=1e-3, atol=1e-4)
    wanted = (np.maximum(slope, 0) * features).sum(-1)
    np.testing.assert_allclose(cam.by_own_gradient(*given), wanted, rtol=1e-4, atol=1e-6)
    assert np.isfinite(np.asarray(cam.by_positive_regions(given[0], jnp.zeros_like(given[1])))).all()


SIZES = [(16, 8), (8, 8), (8, 16), (4, 16)]


@pytest.mark.parametrize(
    ("settings", "sizes", "conv"),
    [
        *((CNNSettings((8, 16)), SIZES, conv) for conv in ("gemm", "direct", "each", "xla")),
        (ResNetSettings(18, 8), [(4, 8), (2, 16)], "gemm"),
    ],
)
def test_networks_are_cut_at_the_last_activation_of_each_size(settings, sizes, conv) -> None:
    net = settings.build((16, 16, 1), 3, Compute(conv))
    model = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(net.init, jax.random.key(0)))
    closed_jaxpr = traced(lambda x: net.apply(*model, x, jnp.ones(2), False)[0], jnp.zeros((2, 16, 16, 1)), CALLS)
    found = [variable.aval.shape for _, variable in activations(closed_jaxpr)]
    assert found[-len(sizes) :] == [(2, side, side, channels) for side, channels in sizes]


def test_the_head_and_the_tail_are_the_network() -> None:
    net = CNNSettings((8,)).build((8, 8, 1), 3, Compute("direct"))
    model = net.init(jax.random.key(0))

    def scores(x: jax.Array) -> jax.Array:
        return net.apply(*model, x, jnp.ones(2), False)[0]

    for layer in (-1, -2):
        features, tail = cut(scores, toys.images(), layer)
        np.testing.assert_allclose(tail(features), scores(toys.images()), rtol=1e-5)
        assert features.shape == (2, 8 >> (-layer == 1), 8 >> (-layer == 1), 8)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"layer=-2: .* of 1 sizes, give -1 to -1"):
        cut(scores, toys.images(), -2)
    with pytest.raises(UserError, match="of 0 sizes, so it has no CAM"):
        cut(lambda x: x.reshape(2, -1)[:, :3], toys.images(), -1)
