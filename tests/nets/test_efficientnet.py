"""EfficientNet and VGG16: counts of parameters as published, logits as independent float64 forward passes give them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from fedjax_mri import trees
from fedjax_mri.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.efficientnet import EfficientNetSettings
from fedjax_mri.nets.layers import around
from fedjax_mri.nets.vgg import STAGES, VGGSettings

B1, B3 = {"width": 1.0, "depth": 1.1}, {"width": 1.2, "depth": 1.4}
COUNTS = [  # parameters for 1000 classes and RGB, 4 and RGB, 4 and 1 channel; running statistics, by norm
    (EfficientNetSettings(**B1), 7_794_184, 6_518_308, 6_517_732, 0),
    (EfficientNetSettings(**B1, norm="batch"), 7_794_184, 6_518_308, 6_517_732, 62_048),
    (EfficientNetSettings(**B3), 12_233_232, 10_702_380, 10_701_660, 0),
    (EfficientNetSettings(**B3, norm="batch"), 12_233_232, 10_702_380, 10_701_660, 87_296),
    (VGGSettings(), 138_357_544, 134_276_932, 134_275_780, 0),
    (VGGSettings(norm="batch"), 138_365_992, 134_285_380, 134_284_228, 8_448),
]


@pytest.mark.parametrize(("settings", "imagenet", "colour", "grey", "running"), COUNTS)
def test_counts_are_the_published_ones(settings, imagenet, colour, grey, running) -> None:
    for channels, classes, count in ((3, 1000, imagenet), (3, 4, colour), (1, 4, grey)):
        init = settings.build((64, 64, channels), classes, Compute()).init
        params, carry = jax.eval_shape(init, jax.random.key(0))
        assert (trees.count(params), trees.count(carry)) == (count, running)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def layer(params: dict, carry: dict, x: np.ndarray, stride: int = 1) -> np.ndarray:
    kernel = params["conv"]["kernel"]
    y = reference.conv(x, kernel, stride, around(len(kernel) // 2))
    return reference.norm(y, params["norm"], carry.get("norm", {}))


def inverted(params: dict, carry: dict, x: np.ndarray, stride: int) -> np.ndarray:
    y = silu(layer(params["expand"], carry.get("expand", {}), x)) if "expand" in params else x
    kernel = params["depthwise"]["kernel"][:, :, :, None, None]
    pads = around(len(kernel) // 2)
    each = [reference.conv(y[..., c : c + 1], kernel[:, :, c], stride, pads) for c in range(y.shape[-1])]
    y = silu(reference.norm(np.concatenate(each, -1), params["norm"], carry.get("norm", {})))
    reduce, expand = params["excite"]["reduce"], params["excite"]["expand"]
    share = silu(y.mean((1, 2)) @ reduce["kernel"] + reduce["bias"]) @ expand["kernel"] + expand["bias"]
    y = layer(params["project"], carry.get("project", {}), y / (1 + np.exp(-share))[:, None, None])
    return x + y if x.shape == y.shape else y


def efficientnet(params: dict, carry: dict, x: np.ndarray) -> np.ndarray:
    """With one block a stage."""
    x = silu(layer(params["stem"], carry.get("stem", {}), x, 2))
    for number, stride in enumerate((1, 2, 2, 2, 1, 2, 1)):
        x = inverted(params["blocks"][number], carry.get("blocks", {}).get(number, {}), x, stride)
    x = silu(layer(params["top"], carry.get("top", {}), x)).mean((1, 2), keepdims=True)
    if "norm" in params:
        x = reference.norm(x, params["norm"], carry.get("norm", {}))
    return x[:, 0, 0] @ params["logits"]["kernel"] + params["logits"]["bias"]


def vgg(params: dict, carry: dict, x: np.ndarray) -> np.ndarray:
    """With a grid of one, of what is left of 32 or 64 px: all of it."""
    number = 0
    for _, count in STAGES:
        for _ in range(count):
            conv = params["convs"][number]
            x = reference.conv(x, conv["kernel"], 1, around(1)) + conv["bias"]
            if "norms" in params:
                x = reference.norm(x, params["norms"][number], carry.get("norms", {}).get(number, {}))
            x, number = np.maximum(x, 0), number + 1
        x = np.maximum.reduce([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    x = x.mean((1, 2))
    for dense in params["hidden"].values():
        x = np.maximum(x @ dense["kernel"] + dense["bias"], 0)
    return x @ params["logits"]["kernel"] + params["logits"]["bias"]


def plain(tree, rng):
    """Values of which none is 1 or 0, and the variances positive."""
    return jax.tree.map(lambda p: np.asarray(p * rng.uniform(0.8, 1.2, p.shape) + 0.05, np.float32), tree)


@pytest.mark.parametrize(
    ("settings", "image", "wanted"),
    [
        (EfficientNetSettings(0.25, 0.3), (33, 40, 1), efficientnet),
        (EfficientNetSettings(0.25, 0.3, norm="batch", head="normed"), (32, 32, 3), efficientnet),
        (VGGSettings(width=2, hidden=5, grid=1), (32, 64, 1), vgg),
        (VGGSettings(width=2, hidden=5, grid=1, norm="batch"), (32, 32, 3), vgg),
    ],
)
def test_logits_equal_an_independent_forward_pass(settings, image, wanted) -> None:
    net, rng = settings.build(image, 4, Compute()), np.random.default_rng(0)
    params, carry = plain(jax.jit(net.init)(jax.random.key(0)), rng)
    x = rng.normal(size=(2, *image)).astype(np.float32)
    logits = jax.jit(lambda x: net.apply(params, carry, x, jnp.ones(2), False)[0])(x)
    expected = wanted(params, carry, x.astype(np.float64))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_only_a_key_drops() -> None:
    """All but the first blocks of their stages add to what came in; with a key some are left out, at random."""
    x, weight = jax.random.normal(jax.random.key(1), (2, 32, 32, 1)), jnp.ones(2)
    settings = EfficientNetSettings(0.1, 0.6, dropout=0.5, stochastic_depth=0.9)
    net = settings.build((32, 32, 1), 3, Compute())
    params, carry = jax.jit(net.init)(jax.random.key(0))
    apply = jax.jit(lambda key: net.apply(params, carry, x, weight, True, key)[0])
    first, again, other = (apply(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-3
    still = EfficientNetSettings(0.1, 0.6).build((32, 32, 1), 3, Compute())
    np.testing.assert_allclose(apply(None), still.apply(params, carry, x, weight, True)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "image", "says"),
    [
        (EfficientNetSettings(width=0.0), (64, 64, 1), "network.width=0.0"),
        (EfficientNetSettings(depth=float("nan")), (64, 64, 1), "network.depth=nan"),
        (EfficientNetSettings(dropout=1.0), (64, 64, 1), "network.dropout=1.0"),
        (EfficientNetSettings(stochastic_depth=-0.1), (64, 64, 1), "network.stochastic_depth=-0.1"),
        (EfficientNetSettings(head="none"), (64, 64, 1), "network.head=none"),
        (VGGSettings(grid=0), (64, 64, 1), "network.grid=0"),
        (VGGSettings(), (31, 64, 1), "31 x 64 px"),
        (VGGSettings(width=12, norm="group"), (64, 64, 1), "multiples of 8"),
    ],
)
def test_impossible_settings_are_refused(settings, image, says) -> None:
    with pytest.raises(UserError, match=says):
        settings.build(image, 4, Compute())
