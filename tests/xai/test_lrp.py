"""Layer-wise relevance propagation: its identities, its rules by hand, and that every network here has them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.conv.pool import max_pool, overlapping_max_pool
from fedjax_mri.nets.efficientnet import EfficientNetSettings
from fedjax_mri.nets.head import HeadSettings
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.nets.vgg import VGGSettings
from fedjax_mri.xai.gradients import GradientInput
from fedjax_mri.xai.lrp import LRP, residual
from fedjax_mri.xai.method import compiled

KEY = jax.random.key(0)
TARGET = jnp.array([0, 2])
RULES = ["epsilon", "gamma", "alphabeta", "composite"]


def plain(x: jax.Array) -> jax.Array:
    """ReLU, both max pools, a residual sum; no bias."""
    weights = toys.params()
    y = max_pool(jax.nn.relu(toys.conv(x, weights["first"])))
    y = overlapping_max_pool(jax.nn.relu(y + toys.conv(y, weights["second"])))
    return y.mean((1, 2)) @ weights["dense"]


def test_epsilon_to_zero_is_gradient_times_image_and_keeps_the_logit() -> None:
    x = toys.images()
    found = toys.explain(LRP("epsilon", 1e-7), plain, x, TARGET, KEY)
    np.testing.assert_allclose(found, toys.explain(GradientInput(), plain, x, TARGET, KEY), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(residual(plain, x, TARGET, found), 0, atol=1e-3)


@pytest.mark.parametrize("rule", ["gamma", "composite"])
def test_without_biases_the_rules_keep_the_logit_too(rule) -> None:
    x = toys.images()
    found = toys.explain(LRP(rule, 1e-7), plain, x, TARGET, KEY)
    np.testing.assert_allclose(residual(plain, x, TARGET, found), 0, atol=1e-3)
    assert np.abs(found - toys.explain(GradientInput(), plain, x, TARGET, KEY)).max() > 1e-3


def test_the_residual_is_what_a_bias_took() -> None:
    x, bias = jnp.ones((2, 2, 2, 1)), jnp.array([1.0, 2.0, 3.0])

    def scores(x: jax.Array) -> jax.Array:
        return x.reshape(2, 4) @ jnp.ones((4, 3)) + bias[None]

    found = toys.explain(LRP("epsilon", 0.0), scores, x, TARGET, KEY)
    np.testing.assert_allclose(residual(scores, x, TARGET, found), [1 / 5, 3 / 7], rtol=1e-5)


def by_hand(x: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]], target: int, rule: str) -> np.ndarray:
    """One example through dense layers with ReLU between, as the papers write the rules."""
    inputs = [x]
    for weights, bias in layers[:-1]:
        inputs.append(np.maximum(inputs[-1] @ weights + bias, 0))
    result = inputs[-1] @ layers[-1][0] + layers[-1][1]
    relevance = np.where(np.arange(len(result)) == target, result, 0)
    for (weights, bias), a in zip(reversed(layers), reversed(inputs)):
        parts = np.vstack([a[:, None] * weights, bias])
        up, down = np.maximum(parts, 0), np.minimum(parts, 0)
        if rule == "alphabeta":
            shares = 2 * up / np.maximum(up.sum(0), 1e-9) - 1 * down / np.minimum(down.sum(0), -1e-9)
        else:
            favoured = np.where(parts.sum(0) >= 0, up, down)
            shares = (parts + 0.25 * favoured) / (parts + 0.25 * favoured).sum(0)
        relevance = (shares * relevance).sum(1)[:-1]
    return relevance


@pytest.mark.parametrize("rule", ["gamma", "alphabeta"])
def test_rules_are_those_of_the_papers(rule) -> None:
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=shape), rng.normal(size=shape[1])) for shape in ((4, 6), (6, 5), (5, 3))]

    def scores(x: jax.Array) -> jax.Array:
        y = x.reshape(len(x), -1)
        for place, (weights, bias) in enumerate(layers):
            y = jax.nn.relu(y) if place else y
            y = y @ jnp.asarray(weights, jnp.float32) + jnp.asarray(bias, jnp.float32)[None]
        return y

    x = rng.normal(size=(2, 2, 2, 1)).astype(np.float32)
    found = toys.explain(LRP(rule, 0.0), scores, jnp.asarray(x), TARGET, KEY)
    wanted = [by_hand(one.ravel(), layers, target, rule) for one, target in zip(x, TARGET.tolist())]
    np.testing.assert_allclose(found.reshape(2, -1), wanted, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_a_norm_counts_as_part_of_its_convolution(rule) -> None:
    """Scale and shift after a convolution explain as the convolution that has them merged into it."""
    weights, rng = toys.params(), np.random.default_rng(0)
    scale, shift = (jnp.asarray(rng.normal(size=4), jnp.float32) for _ in range(2))

    def apart(x: jax.Array) -> jax.Array:
        y = toys.conv(x, weights["first"]) * scale[None, None, None] + shift[None, None, None]
        return jax.nn.relu(y).mean((1, 2)) @ weights["dense"]

    def merged(x: jax.Array) -> jax.Array:
        y = toys.conv(x, weights["first"] * scale[None, None, None]) + shift[None, None, None]
        return jax.nn.relu(y).mean((1, 2)) @ weights["dense"]

    settings, x = LRP(rule), toys.images()
    np.testing.assert_allclose(
        toys.explain(settings, apart, x, TARGET, KEY),
        toys.explain(settings, merged, x, TARGET, KEY),
        rtol=1e-3,
        atol=1e-5,
    )


def test_gates_and_statistics_are_constants() -> None:
    """SiLU then a norm by the deviation: relevance in proportion to the values, none to the deviation."""
    x = toys.images()

    def scores(x: jax.Array) -> jax.Array:
        y = jax.nn.silu(x)
        y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 2), keepdims=True) + 1e-5)
        return jnp.concatenate([y.sum((1, 2)), y[:, 0, 0], y[:, 1, 1]], -1)

    found = toys.explain(LRP("epsilon", 0.0), scores, x, jnp.array([0, 0]), KEY)
    value = np.asarray(jax.nn.silu(x), np.float64)[..., 0]
    wanted = value / np.sqrt((value**2).mean((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_attention_hands_relevance_to_values_by_its_weights() -> None:
    x = toys.images(2, 3)

    def tokens(x: jax.Array) -> jax.Array:
        return x.reshape(2, 9, 1)

    def attention(x: jax.Array) -> jax.Array:
        return jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", tokens(x), tokens(x)), -1)

    def scores(x: jax.Array) -> jax.Array:
        return jnp.einsum("bqk,bkc->bq", attention(x), tokens(x))

    found = toys.explain(LRP("epsilon", 0.0), scores, x, TARGET, KEY).reshape(2, 9)
    weights = np.asarray(attention(x))[np.arange(2), TARGET]
    np.testing.assert_allclose(found, weights * np.asarray(tokens(x))[..., 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("conv", ["gemm", "direct", "each"])
def test_the_way_a_convolution_is_computed_does_not_matter(conv) -> None:
    wanted, found = (explained(CNNSettings((8,)), policy) for policy in ("xla", conv))
    np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-4)


@functools.cache
def explained(settings: CNNSettings, conv: str) -> jax.Array:
    net = settings.build((8, 8, 1), 3, Compute(conv))
    method = compiled(LRP().build(), lambda model, x: net.apply(*model, x, jnp.ones(2), False)[0])
    return method(net.init(KEY), toys.images(), TARGET, KEY)


@pytest.mark.parametrize(
    "settings",
    [
        ResNetSettings(18, 8, "batch"),
        VGGSettings(4, 16, 2),
        EfficientNetSettings(0.25, 0.3, head=HeadSettings("batch")),
    ],
)
def test_every_network_here_has_rules(settings) -> None:
    net = settings.build((32, 32, 1), 3, Compute("xla"))
    model, x = jax.eval_shape(net.init, KEY), jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)

    def explained(model: tuple, x: jax.Array) -> jax.Array:
        return toys.explain(LRP(), lambda x: net.apply(*model, x, jnp.ones(2), False)[0], x, TARGET, KEY)

    assert jax.eval_shape(explained, model, x).shape == (2, 32, 32)


def test_what_has_no_rule_is_named() -> None:
    with pytest.raises(UserError, match="LRP has no rule for 'sort'"):
        toys.explain(LRP(), lambda x: jnp.sort(x.reshape(2, -1)), toys.images(), TARGET, KEY)
    with pytest.raises(UserError, match="LRP has no rule for 'min' of several"):
        toys.explain(LRP(), lambda x: jnp.minimum(x, 2 * x).reshape(2, -1), toys.images(), TARGET, KEY)


@pytest.mark.parametrize(
    ("settings", "says"),
    [(LRP("flat"), "rule=flat: give one of"), (LRP(alpha=2, beta=2), "alpha = 1"), (LRP(epsilon=-1), "epsilon=-1")],
)
def test_impossible_settings_are_refused(settings, says) -> None:
    with pytest.raises(UserError, match=says):
        settings.build()
