"""Shapley values of games whose values are known, and of superpixels."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.shapley import KernelSHAP, SampledShapley, kernel_shap, sampled_shapley
from fedjax_mri.xai.superpixels import grid, slic

KEY = jax.random.key(0)
kernel_shap, sampled_shapley = (jax.jit(solve, static_argnums=(0, 1, 2)) for solve in (kernel_shap, sampled_shapley))


def worked(present: jax.Array) -> jax.Array:
    """2 x0 - x1 + 3 x0 x2 at (1, 2, 3), base 0."""
    x = jnp.where(present, jnp.array([1.0, 2.0, 3.0]), jnp.zeros(3))
    return (2 * x[0] - x[1] + 3 * x[0] * x[2])[None]


def test_the_worked_example() -> None:
    for solve in (kernel_shap, sampled_shapley):
        np.testing.assert_allclose(solve(6, worked, 3, KEY), [[6.5, -2, 4.5]], atol=1e-3)


def test_all_coalitions_give_the_exact_values_of_any_game() -> None:
    table = np.random.default_rng(0).normal(size=(2,) * 4 + (2,)).astype(np.float32)

    def game(present: jax.Array) -> jax.Array:
        return jnp.asarray(table)[tuple(present.astype(jnp.int32))]

    wanted = np.zeros((2, 4))
    for order in permutations(range(4)):
        for place, player in enumerate(order):
            before, after = ([int(p in order[:end]) for p in range(4)] for end in (place, place + 1))
            wanted[:, player] += (table[tuple(after)] - table[tuple(before)]) / 24
    np.testing.assert_allclose(kernel_shap(14, game, 4, KEY), wanted, atol=1e-3)
    many = sampled_shapley(200, game, 4, KEY)
    np.testing.assert_allclose(many, wanted, atol=0.2)
    np.testing.assert_allclose(many.sum(1), table[1, 1, 1, 1] - table[0, 0, 0, 0], rtol=1e-4)


def test_sampled_coalitions_give_a_linear_game_exactly() -> None:
    worth = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    found = kernel_shap(60, lambda present: present.astype(jnp.float32) @ jnp.asarray(worth), 12, KEY)
    np.testing.assert_allclose(found, worth.T, atol=2e-3)


def test_a_map_sums_to_what_all_parts_add() -> None:
    x, target = toys.images(), jnp.array([0, 2])
    logits = toys.apply(toys.params(), x) - toys.apply(toys.params(), jnp.zeros_like(x))
    found = toys.explain(SampledShapley(1, "slic", 2, "zero"), lambda x: toys.apply(toys.params(), x), x, target, KEY)
    np.testing.assert_allclose(found.sum((1, 2)), logits[jnp.arange(2), target], rtol=1e-3)


def test_superpixels() -> None:
    squares = np.asarray(grid(jnp.zeros((1, 8, 6, 1)), 2))[0]
    np.testing.assert_array_equal(squares[[0, 3, 4, 7], [2, 3, 2, 3]], [0, 1, 2, 3])
    assert (np.bincount(squares.ravel()) == 12).all()
    bright = np.zeros((1, 12, 12, 1), np.float32)
    bright[:, 2:7, 3:9] = 1.0
    parts, inside = np.asarray(slic(jnp.asarray(bright), 4))[0], bright[0, ..., 0] > 0
    assert parts.shape == (12, 12) and parts.dtype == np.int32
    assert not set(parts[inside]) & set(parts[~inside])


def test_impossible_settings_are_refused() -> None:
    for settings, says in ((KernelSHAP(0), "samples=0"), (SampledShapley(across=1), "across=1")):
        with pytest.raises(UserError, match=says):
            settings.build()
    with pytest.raises(UserError, match="parts=quick: give slic or grid"):
        KernelSHAP(parts="quick").build()
