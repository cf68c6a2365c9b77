"""Residual networks: counts of parameters as published, logits as an independent float64 forward pass gives them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.resnet import ResNetSettings

COUNTS = [  # depth, parameters for 1000 classes and RGB, for 4 classes and 1 channel; running statistics
    (18, 11_689_512, 11_172_292, 9_600),
    (34, 21_797_672, 21_280_452, 17_024),
    (50, 25_557_032, 23_509_956, 53_120),
]


@pytest.mark.parametrize(("depth", "imagenet", "small", "running"), COUNTS)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_counts_are_the_published_ones(norm, depth, imagenet, small, running) -> None:
    for channels, classes, count in ((3, 1000, imagenet), (1, 4, small)):
        net = ResNetSettings(depth, norm=norm).build((64, 64, channels), classes, Compute())
        params, carry = jax.eval_shape(net.init, jax.random.key(0))
        assert (trees.count(params), trees.count(carry)) == (count, running if norm == "batch" else 0)


def logits(params: dict, carry: dict, x: np.ndarray, stages: tuple[int, ...], convolutions: int) -> np.ndarray:
    """The network as its paper draws it; `convolutions` of a block are 2 or 3."""

    def layer(params: dict, carry: dict, x: np.ndarray, stride: int) -> np.ndarray:
        kernel = params["conv"]["kernel"]
        pads = [(kernel.shape[0] // 2,) * 2] * 2
        return reference.norm(reference.conv(x, kernel, stride, pads), params["norm"], carry.get("norm", {}))

    x = reference.max_pool(np.maximum(layer(params["stem"], carry.get("stem", {}), x, 2), 0))
    firsts = np.cumsum([0, *stages[:-1]])
    for number in range(sum(stages)):
        block, running = params["blocks"][number], carry.get("blocks", {}).get(number, {})
        stride, y = 2 if number in firsts[1:] else 1, x
        for place in range(convolutions):
            mine = stride if place == convolutions - 2 else 1
            y = layer(block["layers"][place], running.get("layers", {}).get(place, {}), y, mine)
            y = np.maximum(y, 0) if place < convolutions - 1 else y
        if "shortcut" in block:
            x = layer(block["shortcut"], running.get("shortcut", {}), x, stride)
        x = np.maximum(x + y, 0)
    return x.mean((1, 2)) @ params["logits"]["kernel"] + params["logits"]["bias"]


@pytest.mark.parametrize(
    ("depth", "norm", "image", "policy"),
    [
        (18, "group", (64, 64, 1), "direct"),
        pytest.param(18, "batch", (45, 38, 3), "gemm", marks=pytest.mark.thorough),
        (50, "batch", (33, 64, 3), "direct"),
    ],
)
def test_logits_equal_an_independent_forward_pass(depth, norm, image, policy) -> None:
    net = ResNetSettings(depth, width=8, norm=norm).build(image, 4, Compute(policy))
    params, carry = jax.jit(net.init)(jax.random.key(0))
    rng = np.random.default_rng(0)  # so that no scale is 1, no bias or mean 0
    params, carry = jax.tree.map(lambda p: p * rng.uniform(0.8, 1.2, p.shape) + 0.05, (params, carry))
    params, carry = jax.tree.map(lambda p: np.asarray(p, np.float32), (params, carry))
    x = rng.normal(size=(2, *image)).astype(np.float32)
    actual, _ = jax.jit(net.apply, static_argnums=4)(params, carry, jnp.asarray(x), jnp.ones(2), False)
    stages, convolutions = ((2, 2, 2, 2), 2) if depth == 18 else ((3, 4, 6, 3), 3)
    wanted = logits(params, carry, x.astype(np.float64), stages, convolutions)
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"depth": 19}, "network.depth=19"), ({"width": 0}, "network.width=0"), ({"width": 12}, "multiples of 8")],
)
def test_impossible_settings_are_refused(settings, says) -> None:
    with pytest.raises(UserError, match=says):
        ResNetSettings(**settings).build((64, 64, 1), 4, Compute())
