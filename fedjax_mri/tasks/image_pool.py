"""A memory of translated images, so that a discriminator does not forget (Shrivastava et al. 2017)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Pool(NamedTuple):
    """Up to P images of the past."""

    images: jax.Array  # [P, H, W, C]
    held: jax.Array  # int32 [], how many there are


def empty(size: int, image: tuple[int, int, int]) -> Pool:
    """Room for `size` images [H, W, C]; with 0 every image comes back as it is."""
    return Pool(jnp.zeros((size, *image), jnp.float32), jnp.int32(0))


def exchange(pool: Pool, images: jax.Array, weight: jax.Array, key: jax.Array) -> tuple[jax.Array, Pool]:
    """What to show a discriminator in place of new images [B, H, W, C], [B, H, W, C], and the pool after it.

    One image after the other. While there is room it is stored and shown; then, half of the time, a random stored one
    is shown and it takes that one's place. Weight [B] 0 marks padding, which is not stored.
    """
    if not len(pool.images):
        return images, pool

    def one(pool: Pool, new: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Pool, jax.Array]:
        image, weight, key = new
        full = pool.held == len(pool.images)
        place = jnp.where(full, jax.random.randint(jax.random.fold_in(key, 0), (), 0, len(pool.images)), pool.held)
        old = pool.images[place]
        swap = full & jax.random.bernoulli(jax.random.fold_in(key, 1))
        store = (swap | ~full) & (weight > 0)
        images = pool.images.at[place].set(jnp.where(store, image, old))
        held = jnp.where(store & ~full, pool.held + 1, pool.held)
        return Pool(images, held), jnp.where(swap, old, image)

    pool, shown = jax.lax.scan(one, pool, (images, weight, jax.random.split(key, len(images))))
    return shown, pool
