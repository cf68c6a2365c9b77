"""Generators and discriminators: counts of parameters, shapes, and what their patches see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.double_unet import DoubleUNetSettings
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.nets.unit import ScalesSettings, UNITSettings

COUNTS = [
    (GeneratorSettings(), 3, 11_378_179),
    (GeneratorSettings(), 1, 11_365_633),
    (GeneratorSettings(blocks=6), 3, 7_837_699),
    (GeneratorSettings(blocks=6), 1, 7_825_153),
    (PatchGANSettings(), 3, 2_764_737),
    (PatchGANSettings(), 1, 2_762_689),
    (PatchGANSettings(norm="batch"), 6, 2_768_705),  # of pairs
    (PatchGANSettings(norm="batch"), 2, 2_764_609),
    (UNetSettings(), 3, 54_413_955),
    (UNetSettings(), 1, 54_407_809),
    (UNetSettings(depth=7), 1, 41_822_849),
    (ScalesSettings(), 3, 8_271_171),
    (ScalesSettings(), 1, 8_265_027),
    (DoubleUNetSettings(), 1, 29_272_866),
]


@pytest.mark.parametrize(("settings", "channels", "count"), COUNTS)
def test_counts_are_the_reference_s(settings, channels, count) -> None:
    params, carry = jax.eval_shape(settings.build((256, 256, channels), Compute()).init, jax.random.key(0))
    assert trees.count(params) == count
    assert bool(trees.count(carry)) == (getattr(settings, "norm", "") == "batch")


@pytest.mark.parametrize(("channels", "count"), [(3, 11_140_483), (1, 11_127_937)])
def test_counts_of_an_autoencoder_are_the_reference_s(channels, count) -> None:
    init = UNITSettings().build((256, 256, channels), Compute()).init
    assert trees.count(jax.eval_shape(init, jax.random.key(0))) == count


def test_a_generator_keeps_the_shape_and_the_range() -> None:
    net = GeneratorSettings(width=4, blocks=2).build((8, 12, 3), Compute())
    params, _ = jax.jit(net.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
    y, _ = jax.jit(net.apply)(jax.tree.map(lambda p: 50 * p, params), {}, x)
    assert y.shape == x.shape
    assert 0.5 < float(jnp.abs(y).max()) <= 1


def test_a_generator_s_kernels_are_small_normals_and_differ() -> None:
    params, _ = GeneratorSettings(width=16, blocks=2).build((8, 8, 1), Compute()).init(jax.random.key(0))
    kernels = params["blocks"]["first"]["kernel"]
    assert np.std(kernels) == pytest.approx(0.02, rel=0.03)
    assert abs(np.corrcoef(np.ravel(kernels[0]), np.ravel(kernels[1]))[0, 1]) < 0.03


@pytest.mark.parametrize(("halvings", "side"), [(1, 16), (2, 34), (3, 70)])
def test_a_score_sees_its_patch_and_no_more(halvings, side) -> None:
    """Without norms, which see the whole image, the patch is what the gradient of one score reaches."""
    size = side + 10
    net = PatchGANSettings(width=2, halvings=halvings).build((size, size, 1), Compute())
    params, _ = jax.jit(net.init)(jax.random.key(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedjax_mri.nets.norm.instance_norm", lambda x: x)
        score = lambda x: net.apply(params, {}, x)[0][0, 3, 3, 0]  # noqa: E731
        touched = np.asarray(jax.jit(jax.grad(score))(jnp.ones((1, size, size, 1))))[0, :, :, 0] != 0
    np.testing.assert_array_equal(np.flatnonzero(touched.any(1)), np.arange(1, side + 1))


@pytest.mark.parametrize(
    ("settings", "image", "says"),
    [
        (GeneratorSettings(width=0), (16, 16, 1), "generator.width=0"),
        (GeneratorSettings(blocks=0), (16, 16, 1), "generator.blocks=0"),
        (GeneratorSettings(), (16, 18, 1), "16 x 18 px"),
        (PatchGANSettings(width=0), (64, 64, 1), "discriminator.width=0"),
        (PatchGANSettings(halvings=0), (64, 64, 1), "discriminator.halvings=0"),
        (PatchGANSettings(), (23, 64, 1), "24 px or more"),
        (UNetSettings(), (256, 128, 1), "generator.depth=8: wants multiples of 256 px"),
        (UNetSettings(depth=1), (64, 64, 1), "generator.depth=1"),
        (UNetSettings(dropout=1.0), (256, 256, 1), "generator.dropout=1.0"),
        (DoubleUNetSettings(width=0), (64, 64, 1), "generator.width=0"),
        (DoubleUNetSettings(), (64, 40, 1), "64 x 40 px"),
        (UNITSettings(blocks=0), (64, 64, 1), "generator.blocks=0"),
        (UNITSettings(), (64, 42, 1), "64 x 42 px"),
        (ScalesSettings(scales=0), (64, 64, 1), "discriminator.scales=0"),
        (ScalesSettings(), (63, 64, 1), "want 64 px or more"),
    ],
)
def test_impossible_settings_are_refused(settings, image, says) -> None:
    with pytest.raises(UserError, match=says):
        settings.build(image, Compute())


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_the_least_image_has_a_score(halvings) -> None:
    least = 3 << halvings
    net = PatchGANSettings(width=2, halvings=halvings).build((least, least, 1), Compute())
    params, _ = jax.jit(net.init)(jax.random.key(0))
    assert jax.jit(net.apply)(params, {}, jnp.ones((1, least, least, 1)))[0].shape == (1, 1, 1, 1)
