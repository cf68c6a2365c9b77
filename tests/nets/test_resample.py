"""Images made smaller and larger, against loops over their pixels; dropout by its mean and its share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.nets.dropout import drop_path, dropout
from fedjax_mri.nets.resample import adaptive_mean_pool, double_bilinear, double_nearest, halve_mean

X = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)


def test_nearest_repeats_each_pixel() -> None:
    for i, j in np.ndindex(10, 12):
        np.testing.assert_array_equal(double_nearest(jnp.asarray(X))[:, i, j], X[:, i // 2, j // 2])


def test_bilinear_interpolates_between_centres() -> None:
    wanted = jax.image.resize(X, (2, 10, 12, 3), "bilinear")
    np.testing.assert_allclose(double_bilinear(jnp.asarray(X)), wanted, atol=1e-6)


@pytest.mark.parametrize("size", [(5, 6), (4, 1)])
def test_halve_mean_counts_pixels_inside_the_image_alone(size) -> None:
    x = X[:, : size[0], : size[1]]
    found = np.asarray(halve_mean(jnp.asarray(x)))
    assert found.shape[1:3] == tuple(-(-n // 2) for n in size)
    for i, j in np.ndindex(*found.shape[1:3]):
        square = x[:, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
        np.testing.assert_allclose(found[:, i, j], square.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("side", [2, 3, 5, 7])
def test_adaptive_mean_pool_covers_the_image_with_boxes(side) -> None:
    found = np.asarray(adaptive_mean_pool(jnp.asarray(X), side))
    assert found.shape == (2, side, side, 3)
    for i, j in np.ndindex(side, side):
        rows, columns = (slice(k * n // side, -(-(k + 1) * n // side)) for k, n in ((i, 5), (j, 6)))
        np.testing.assert_allclose(found[:, i, j], X[:, rows, columns].mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("drop", [dropout, drop_path])
def test_dropout_keeps_the_mean_and_drops_its_share(drop) -> None:
    x = jnp.ones((4000, 2, 2))
    y = np.asarray(drop(x, 0.25, jax.random.key(0)))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert np.mean(y == 0) == pytest.approx(0.25, abs=0.03)
    whole = (y.reshape(4000, 4) == y[:, :1, 0]).all(1).mean()
    assert (whole == 1) == (drop is drop_path)


def test_dropout_needs_a_key_and_a_rate() -> None:
    x = jnp.ones((4, 3))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x
    np.testing.assert_allclose(jax.jit(lambda rate: drop_path(x, rate, jax.random.key(0)))(0.0), x)
