"""The memory of images: it fills, then gives back one of the past half of the time."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.tasks import image_pool

SIZE = 50


def history(count: int) -> tuple[np.ndarray, image_pool.Pool]:
    """What images 1, 2, ... of one pixel were answered with, in batches of two, and the pool after them."""
    numbered = jnp.arange(1, count + 1, dtype=jnp.float32).reshape(-1, 2, 1, 1, 1)

    def step(pool, new):
        shown, pool = image_pool.exchange(pool, new[0], jnp.ones(2), new[1])
        return pool, shown

    keys = jax.random.split(jax.random.key(0), count // 2)
    pool, shown = jax.lax.scan(step, image_pool.empty(SIZE, (1, 1, 1)), (numbered, keys))
    return np.asarray(shown).ravel(), pool


def test_it_fills_before_it_swaps() -> None:
    shown, pool = history(SIZE)
    np.testing.assert_array_equal(shown, np.arange(1, SIZE + 1))
    np.testing.assert_array_equal(np.ravel(pool.images), shown)
    assert pool.held == SIZE


def test_then_half_of_what_it_shows_is_of_the_past() -> None:
    shown, _ = history(4000)
    later, numbers = shown[SIZE:], np.arange(SIZE + 1, 4001)
    old = later[later != numbers]
    assert abs(len(old) / len(later) - 0.5) < 0.04  # five standard deviations
    assert np.all(later <= numbers)
    assert len(set(old)) == len(old)  # what came out is no longer in it
    age = (numbers - later)[later != numbers]
    assert 80 < age.mean() < 120  # each of 50 is replaced once in 100 images


def test_what_is_in_it_was_stored_and_not_yet_shown() -> None:
    shown, pool = history(1000)
    numbers, kept = np.arange(1, 1001), set(np.ravel(pool.images).tolist())
    once_old = set(shown[shown != numbers].tolist())
    stored = set(numbers[:SIZE].tolist()) | set(numbers[shown != numbers].tolist())
    assert kept == stored - once_old


def test_padding_is_not_stored_and_no_pool_shows_what_it_was_given() -> None:
    images = jnp.ones((3, 2, 2, 1))
    _, pool = image_pool.exchange(image_pool.empty(4, (2, 2, 1)), images, jnp.array([1.0, 0, 1]), jax.random.key(0))
    assert pool.held == 2 and float(pool.images.sum()) == 8
    shown, _ = image_pool.exchange(image_pool.empty(0, (2, 2, 1)), images, jnp.ones(3), jax.random.key(0))
    assert shown is images
