"""Gradient methods and occlusion on functions whose explanation is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.baseline import baseline, blurred
from fedjax_mri.xai.gradients import GradientInput, IntegratedGradients, Saliency, SmoothGrad
from fedjax_mri.xai.occlusion import Occlusion

X = toys.images()
KEY = jax.random.key(0)
FIRST = jnp.array([0, 1])
WEIGHTS = np.random.default_rng(3).normal(size=(8, 8, 2)).astype(np.float32)


def linear(x: jax.Array) -> jax.Array:
    return jnp.einsum("bhwc,hwk->bk", x, jnp.asarray(WEIGHTS))


def narrow(x: jax.Array) -> jax.Array:
    return jnp.einsum("bhwc,hwk->bk", x, jnp.asarray(WEIGHTS[:, :7]))


def bent(x: jax.Array) -> jax.Array:
    return jnp.tanh(linear(x) / 4) + jnp.square(x).mean((1, 2))


def test_on_a_linear_function_gradients_are_its_weights() -> None:
    mine, x = np.moveaxis(WEIGHTS, 2, 0), np.asarray(X)[..., 0]
    np.testing.assert_allclose(toys.explain(Saliency(), linear, X, FIRST, KEY), np.abs(mine), rtol=1e-5)
    np.testing.assert_allclose(toys.explain(SmoothGrad(3), linear, X, FIRST, KEY), np.abs(mine), rtol=1e-4)
    for settings in (GradientInput(), IntegratedGradients(steps=1)):
        np.testing.assert_allclose(toys.explain(settings, linear, X, FIRST, KEY), mine * x, rtol=1e-4, atol=1e-6)


def test_smoothgrad_is_the_mean_gradient_under_noise_of_a_share_of_the_range() -> None:
    """Of x^3 / 3 it is x^2 + sd^2."""

    def cube(x: jax.Array) -> jax.Array:
        return (x**3).sum((1, 2)) / 3

    x = jnp.tile(jnp.array([0.0, 2.0]), 32).reshape(1, 8, 8, 1)
    found = toys.explain(SmoothGrad(400, 0.25), cube, x, jnp.array([0]), KEY)
    np.testing.assert_allclose(found.mean((1,))[0, :2], [0.25, 4.25], rtol=0.1)


@pytest.mark.parametrize("name", ["zero", "mean", "blurred", "noise"])
def test_integrated_gradients_sum_to_what_the_baseline_lacks(name) -> None:
    found = toys.explain(IntegratedGradients(name, 50), bent, X, FIRST, KEY).sum((1, 2))
    wanted = (bent(X) - bent(baseline(name, X, KEY)))[jnp.arange(2), FIRST]
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-5)


def test_integrated_gradients_need_their_steps() -> None:
    wanted = (bent(X) - bent(jnp.zeros_like(X)))[jnp.arange(2), FIRST]
    rough = toys.explain(IntegratedGradients(steps=1), bent, X, FIRST, KEY).sum((1, 2))
    assert np.abs(rough - wanted).max() > 1e-2


def test_baselines_are_what_their_names_say() -> None:
    flat = jnp.full((1, 8, 6, 2), jnp.float32(3))
    np.testing.assert_allclose(blurred(flat), flat, rtol=1e-6)
    assert blurred(X).std() < 0.7 * X.std()
    np.testing.assert_allclose(baseline("mean", X, KEY)[:, 0, 0, 0], np.asarray(X).mean((1, 2, 3)), rtol=1e-5)
    with pytest.raises(UserError, match="baseline=black: give zero, mean, blurred or noise"):
        baseline("black", X, KEY)


def test_occlusion_is_the_mean_fall_over_the_squares_that_hide_a_pixel() -> None:
    found = toys.explain(Occlusion(0.375, 3, "zero"), narrow, X[:, :, :7], FIRST, KEY)
    product = np.moveaxis(WEIGHTS, 2, 0)[:, :, :7] * np.asarray(X)[:, :, :7, 0]
    fall, count = np.zeros((2, 8, 7)), np.zeros((8, 7))
    for top in range(6):
        for left in range(5):
            square = slice(top, top + 3), slice(left, left + 3)
            fall[:, *square] += product[:, *square].sum((1, 2))[:, None, None]
            count[square] += 1
    np.testing.assert_allclose(found, fall / count, rtol=1e-3, atol=1e-4)


def test_occlusion_hides_the_last_rows_too() -> None:
    found = toys.explain(Occlusion(0.4, 1, "mean"), linear, X, FIRST, KEY)  # squares of 3 px on 8
    assert np.isfinite(np.asarray(found)).all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (SmoothGrad(0), "samples=0"),
        (IntegratedGradients(steps=0), "steps=0"),
        (Occlusion(0.0), "side=0.0"),
    ],
)
def test_impossible_settings_are_refused(settings, says) -> None:
    with pytest.raises(UserError, match=says):
        settings.build()
