"""A memory of translated images, so that a discriminator does not forget (Shrivastava et al. 2017)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Pool(NamedTuple):
    """Up to P images of the past."""

    images: jax.Array  # [P, H, W, C]
    held: jax.Array  # int32 [], how many there are


def empty(size: int, image: tuple[int, ...]) -> Pool:
    """Returns a pool with room for `size` images; with 0, `exchange` gives every image back as it is."""
    return Pool(jnp.zeros((size, *image), jnp.float32), jnp.int32(0))


def exchange(pool: Pool, images: jax.Array, weight: jax.Array, key: jax.Array) -> tuple[jax.Array, Pool]:
    """Returns the images [B, H, W, C] to show a discriminator in place of as many new ones, and the pool afterwards.

    Images are taken one after the other. While there is room, a new one is stored and shown; then, half of the time, a
    random stored one is shown and the new one takes its place. Weight [B] 0 marks padding, which is not stored.
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
