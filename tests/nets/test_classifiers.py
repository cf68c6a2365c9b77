"""EfficientNet and VGG16: published counts, names of their weights, logits as float64 loops give them."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets import weights
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.efficientnet import EfficientNetSettings
from fedjax_mri.nets.head import HeadSettings
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.nets.vgg import STAGES, VGGSettings

B1, B3 = EfficientNetSettings(1.0, 1.1, norm="batch"), EfficientNetSettings(1.2, 1.4, norm="batch")
COUNTS = [  # channels, classes, parameters, running statistics
    (B1, 3, 1000, 7_794_184, 62_048),
    (EfficientNetSettings(), 1, 4, 6_517_732, 0),
    (B3, 3, 1000, 12_233_232, 87_296),
    (VGGSettings(), 3, 1000, 138_357_544, 0),
    (VGGSettings(), 3, 4, 134_276_932, 0),
    (VGGSettings(), 1, 4, 134_275_780, 0),
    (VGGSettings(norm="batch"), 3, 1000, 138_365_992, 8_448),
]


@functools.cache
def shapes(settings, channels=3, classes=1000, size=64):
    return jax.eval_shape(settings.build((size, size, channels), classes, Compute()).init, jax.random.key(0))


@pytest.mark.parametrize(("settings", "channels", "classes", "count", "running"), COUNTS)
def test_counts_are_the_published_ones(settings, channels, classes, count, running) -> None:
    params, carry = shapes(settings, channels, classes)
    assert (trees.count(params), trees.count(carry)) == (count, running)


@pytest.mark.parametrize(("settings", "colour", "grey"), [(B1, 6_518_308, 6_517_732), (B3, 10_702_380, 10_701_660)])
def test_four_classes_and_one_channel_leave_the_published_counts(settings, colour, grey) -> None:
    params = shapes(settings)[0]
    features, stem = params["logits"]["kernel"].shape[0], params["stem"]["conv"]["kernel"].shape
    assert trees.count(params) - 996 * (features + 1) == colour
    assert colour - grey == 2 * 9 * stem[-1]


NAMES = [  # of torchvision 0.29's and timm 1.0's tensors: how many, and a digest of the sorted list
    (ResNetSettings(18, norm="batch"), "", 102, "e90b1f58ce95"),
    (ResNetSettings(50, norm="batch"), "", 267, "d1512e10e88b"),
    (VGGSettings(), "", 32, "66817e793078"),
    (VGGSettings(), "pre_logits.fc1.weight", 32, "d7e4570566e9"),
    (VGGSettings(norm="batch"), "", 84, "b3372d34016e"),
    (VGGSettings(norm="batch"), "pre_logits.fc1.weight", 84, "8a50da39954f"),
    (B1, "", 439, "dadcfad3020d"),
    (B1, "conv_stem.weight", 439, "af5752fed551"),
    (B3, "", 496, "d253f74068b8"),
    (B3, "conv_stem.weight", 496, "4de74b7fec10"),
]


@pytest.mark.parametrize(("settings", "telling", "count", "digest"), NAMES)
def test_names_are_those_of_the_libraries(settings, telling, count, digest) -> None:
    """The tensor `telling` tells timm's names from torchvision's where they differ."""
    places = dict(weights._layer_names(settings, {telling: np.zeros(0)}))
    leaves = jax.tree_util.tree_leaves_with_path(shapes(settings))
    names = sorted(weights._name(places, path) for path, _ in leaves)
    assert (len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]) == (count, digest)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def layer(params: dict, carry: dict, x: np.ndarray, stride: int = 1) -> np.ndarray:
    kernel = params["conv"]["kernel"]
    y = reference.conv(x, kernel, stride, len(kernel) // 2)
    return reference.norm(y, params["norm"], carry.get("norm", {}))


def inverted(params: dict, carry: dict, x: np.ndarray, stride: int) -> np.ndarray:
    y = silu(layer(params["expand"], carry.get("expand", {}), x)) if "expand" in params else x
    kernel = params["depthwise"]["kernel"][:, :, :, None, None]
    pads = len(kernel) // 2
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
    if "norm" in params["logits"]:
        x = reference.norm(x, params["logits"]["norm"], carry["logits"]["norm"])
    return x[:, 0, 0] @ params["logits"]["kernel"] + params["logits"]["bias"]


def vgg(params: dict, carry: dict, x: np.ndarray) -> np.ndarray:
    """With a grid of one, of what is left of 32 or 64 px: all of it."""
    number = 0
    for _, count in STAGES:
        for _ in range(count):
            conv = params["convs"][number]
            x = reference.conv(x, conv["kernel"], 1, 1) + conv["bias"]
            if "norms" in params:
                x = reference.norm(x, params["norms"][number], carry.get("norms", {}).get(number, {}))
            x, number = np.maximum(x, 0), number + 1
        x = np.maximum.reduce([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    x = x.mean((1, 2))
    for dense in params["hidden"].values():
        x = np.maximum(x @ dense["kernel"] + dense["bias"], 0)
    return x @ params["logits"]["kernel"] + params["logits"]["bias"]


def cnn(params: dict, carry: dict, x: np.ndarray) -> np.ndarray:
    """Two stages of two convolutions, the second added to what the first gives; mean; a norm before the logits."""
    for number, (conv, norm) in enumerate(zip(params["convs"].values(), params["norms"].values())):
        y = reference.norm(reference.conv(x, conv["kernel"], 1, 1), norm, carry["norms"][number])
        x = np.maximum(x + y if number % 2 else y, 0)
        x = np.maximum.reduce([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]) if number % 2 else x
    x = reference.norm(x.mean((1, 2), keepdims=True), params["logits"]["norm"], carry["logits"]["norm"])[:, 0, 0]
    return x @ params["logits"]["kernel"] + params["logits"]["bias"]


def drawn(tree, rng):
    """Kernels that keep the size of what passes them; of the rest nothing is 1 or 0."""

    def draw(leaf):
        inputs = np.prod(leaf.shape[:-1] if len(leaf.shape) != 3 else leaf.shape[:2])
        values = rng.normal(0, inputs**-0.5, leaf.shape) if len(leaf.shape) > 1 else rng.uniform(0.5, 1, leaf.shape)
        return values.astype(np.float32)

    return jax.tree.map(draw, tree)


@pytest.mark.parametrize(
    ("settings", "image", "wanted"),
    [
        (EfficientNetSettings(0.25, 0.25), (33, 40, 1), efficientnet),
        (EfficientNetSettings(0.25, 0.25, norm="batch", head=HeadSettings("batch")), (32, 32, 3), efficientnet),
        (
            CNNSettings((3, 4), norm="batch", convs=2, residual=True, pool="mean", head=HeadSettings("batch")),
            (8, 8, 1),
            cnn,
        ),
        (VGGSettings(width=2, hidden=5, grid=1), (32, 64, 1), vgg),
        (VGGSettings(width=2, hidden=5, grid=1, norm="batch"), (32, 32, 3), vgg),
    ],
)
def test_logits_equal_an_independent_forward_pass(settings, image, wanted) -> None:
    net, rng = settings.build(image, 4, Compute()), np.random.default_rng(0)
    params, carry = drawn(jax.eval_shape(net.init, jax.random.key(0)), rng)
    x = rng.normal(size=(2, *image)).astype(np.float32)
    logits = jax.jit(lambda x: net.apply(params, carry, x, jnp.ones(2), False)[0])(x)
    expected = wanted(params, carry, x.astype(np.float64))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_only_a_key_drops() -> None:
    """All but the first blocks of their stages add to what came in; with a key some are left out, at random."""
    x, present = jax.random.normal(jax.random.key(1), (2, 32, 32, 1)), jnp.ones(2)
    settings = EfficientNetSettings(0.1, 0.6, head=HeadSettings(dropout=0.5), stochastic_depth=0.9)
    net = settings.build((32, 32, 1), 3, Compute())
    params, carry = drawn(jax.eval_shape(net.init, jax.random.key(0)), np.random.default_rng(0))
    apply = jax.jit(lambda key: net.apply(params, carry, x, present, True, key)[0])
    first, again, other = (apply(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-3
    still = EfficientNetSettings(0.1, 0.6).build((32, 32, 1), 3, Compute())
    whole = jax.jit(lambda: still.apply(params, carry, x, present, True, jax.random.key(0))[0])()
    np.testing.assert_allclose(apply(None), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "image", "says"),
    [
        (EfficientNetSettings(width=0.0), (64, 64, 1), "network.width=0.0"),
        (EfficientNetSettings(depth=float("nan")), (64, 64, 1), "network.depth=nan"),
        (EfficientNetSettings(stochastic_depth=-0.1), (64, 64, 1), "network.stochastic_depth=-0.1"),
        (VGGSettings(grid=0), (64, 64, 1), "network.grid=0"),
        (CNNSettings(convs=0), (64, 64, 1), "network.convs=0"),
        (CNNSettings((8, 8), hidden=12, head=HeadSettings("group")), (8, 8, 1), "network.head.norm=group, features=12"),
        (VGGSettings(), (31, 64, 1), "31 x 64 px"),
        (VGGSettings(width=12, norm="group"), (64, 64, 1), "multiples of 8"),
    ],
)
def test_impossible_settings_are_refused(settings, image, says) -> None:
    with pytest.raises(UserError, match=says):
        settings.build(image, 4, Compute())


def test_a_head_thins_its_features_where_it_has_a_key() -> None:
    settings = CNNSettings((8,), norm="none", pool="mean", head=HeadSettings(dropout=0.5))
    net = settings.build((4, 4, 1), 3, Compute())
    params, carry = drawn(jax.eval_shape(net.init, jax.random.key(0)), np.random.default_rng(0))
    x, many = jnp.ones((1, 4, 4, 1)), jax.random.split(jax.random.key(1), 4000)
    logits = jax.jit(lambda key: net.apply(params, carry, x, jnp.ones(1), True, key)[0])
    whole, thinned = logits(None), jax.vmap(logits)(many)
    error = thinned.std(0) / 4000**0.5
    assert (jnp.abs(thinned.mean(0) - whole) < 5 * error).all() and (error > 0).all()
    with pytest.raises(UserError, match=r"network.head.dropout=1.5"):
        HeadSettings(dropout=1.5)
