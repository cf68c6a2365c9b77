"""Networks of private training: the published number of parameters, and the transform by loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets import scattering
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.nets.scattering import ScatteringSettings, channels_of, gaussian, wavelets
from fedjax_mri.nets.tanh_cnn import TanhCNNSettings

scatter = jax.jit(scattering.scatter, static_argnums=(1, 2))


def test_the_tanh_network_has_the_published_number_of_parameters() -> None:
    """26,010 on images of 28 px and 10 classes (Papernot et al. 2021)."""
    net = TanhCNNSettings().build((28, 28, 1), 10, Compute())
    assert trees.count(jax.eval_shape(net.init, jax.random.key(0))[0]) == 26_010


def by_loops(x: np.ndarray, bank: np.ndarray, stride: int) -> np.ndarray:
    """One image [H, W] with each filter [side, side, n], at every stride-th px, mirrored at its borders."""
    reach = bank.shape[0] // 2
    padded = np.pad(x, reach, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, bank.shape[:2])[::stride, ::stride]
    return np.einsum("hwij,ijn->hwn", windows, np.float64(bank))


def test_the_transform_is_what_loops_give() -> None:
    """Moduli of moduli, finest scale first; the channels of each colour stay together."""
    x = np.random.default_rng(0).random((2, 20, 20, 2)).astype(np.float32)
    found = np.asarray(scatter(jnp.asarray(x), 2, 3))

    def modulus(u: np.ndarray, scale: int, sampled: int) -> np.ndarray:
        parts = wavelets(scale, sampled, 3)
        return np.hypot(*(by_loops(u, parts[..., part], 2 ** (scale - sampled)) for part in (0, 1)))

    def averaged(u: np.ndarray, sampled: int) -> np.ndarray:
        return by_loops(u, gaussian(2, sampled)[..., 0], 2 ** (2 - sampled))[..., 0]

    grey = np.float64(x[1, :, :, 1])
    fine, coarse = modulus(grey, 0, 0), modulus(grey, 1, 0)
    wanted = [averaged(grey, 0), *(averaged(fine[..., a], 0) for a in range(3))]
    wanted += [averaged(coarse[..., a], 1) for a in range(3)]
    wanted += [averaged(modulus(fine[..., a], 1, 0)[..., b], 1) for a in range(3) for b in range(3)]
    channels = channels_of(2, 3)
    assert found.shape == (2, 5, 5, 2 * channels) and len(wanted) == channels == 16
    np.testing.assert_allclose(found[1, :, :, channels:], np.stack(wanted, -1), atol=2e-5)


def test_wavelets_answer_to_waves_and_not_to_constants() -> None:
    for scale in (0, 1):
        assert np.abs(wavelets(scale, 0, 8).sum((0, 1))).max() < 1e-6
    stripes = jnp.sin(0.75 * jnp.pi * jnp.arange(32.0))[None, None, :, None] * jnp.ones((1, 32, 32, 1))
    first = np.asarray(scatter(stripes, 2, 8))[0, 4, 4, 1:9]
    assert first.argmax() == 0 and first[0] > 10 * first[4]  # along x, and across


def test_a_linear_network_on_the_transform_is_the_scattering_network() -> None:
    """So the transform may be computed once, and its features stand in place of the images."""
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    whole, present = ScatteringSettings(2, 3, 4).build((16, 16, 1), 5, Compute()), jnp.ones(2)
    params, carry = jax.jit(whole.init)(jax.random.key(1))
    linear = LinearSettings(4).build((4, 4, 16), 5, Compute())
    logits = linear.apply(params, carry, scatter(x, 2, 3), present, False)[0]
    np.testing.assert_allclose(
        logits, jax.jit(whole.apply, static_argnums=4)(params, carry, x, present, False)[0], atol=1e-5
    )
    with pytest.raises(UserError, match=r"network\.groups=3: must divide the 16 channels"):
        LinearSettings(3).build((4, 4, 16), 5, Compute())


def test_groups_of_a_linear_network_are_normed_over_a_whole_volume() -> None:
    x = np.random.default_rng(0).normal(1, 2, (2, 3, 4, 5, 6)).astype(np.float32)
    net = LinearSettings(2).build(x.shape[1:], 3, Compute())
    params, carry = jax.jit(net.init)(jax.random.key(0))
    groups = x.astype(np.float64).reshape(2, -1, 2, 3)
    normed = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-5)
    wanted = normed.reshape(2, -1) @ np.asarray(params["logits"]["kernel"], np.float64)
    np.testing.assert_allclose(net.apply(params, carry, x, jnp.ones(2), False)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "image", "says"),
    [
        (TanhCNNSettings(), (12, 28, 1), "wants 16 px or more"),
        (TanhCNNSettings(widths=(0, 32)), (28, 28, 1), "give 1 or more"),
        (ScatteringSettings(), (28, 30, 1), "must be multiples of 4"),
        (ScatteringSettings(scales=0), (28, 28, 1), "network.scales=0"),
        (ScatteringSettings(groups=10), (28, 28, 1), "must divide the 81 channels"),
    ],
)
def test_what_cannot_be_built_is_a_line(settings, image, says) -> None:
    with pytest.raises(UserError, match=says):
        settings.build(image, 10, Compute())
