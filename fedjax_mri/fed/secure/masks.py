"""Masks that cancel in a sum, of counter-based random bits (Bonawitz et al. 2017, CCS, section 4).

The client at place i adds its own mask m_ii, and for each other place j the mask m_ij of the pair, or subtracts it if
j < i. In the sum of all places the masks of pairs cancel. An empty place counts as a client that dropped out.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_mri.core import keys, trees

PyTree = Any


def mask(key: jax.Array, place: jax.Array, cohort_size: int, like: PyTree) -> PyTree:
    """Returns what the client at `place` int32 [] adds to its words: uint32 in the shapes of `like`.

    key: of the round. Takes memory for two masks and the time of `cohort_size` draws.
    """

    def add_pair(other: jax.Array, total: PyTree) -> PyTree:
        return trees.add(total, signed_pair(key, place, other, like))

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(cohort_size), add_pair, trees.zeros_like(like))


def left_in_sum(key: jax.Array, sent: jax.Array, like: PyTree) -> PyTree:
    """Returns the masks that do not cancel in the sum of the clients that have `sent`, bool [K].

    These are their own masks, and those of their pairs with places from which nothing came.
    """
    places = jnp.int32(len(sent))

    def of_client(client: jax.Array, total: PyTree) -> PyTree:
        def with_other(other: jax.Array, total: PyTree) -> PyTree:
            left = sent[client] & ((other == client) | ~sent[other])
            add = lambda total: trees.add(total, signed_pair(key, client, other, like))  # noqa: E731
            return jax.lax.cond(left, add, lambda total: total, total)

        return jax.lax.fori_loop(jnp.int32(0), places, with_other, total)

    return jax.lax.fori_loop(jnp.int32(0), places, of_client, trees.zeros_like(like))


def signed_pair(key: jax.Array, place: jax.Array, other: jax.Array, like: PyTree) -> PyTree:
    """Returns the mask that `place` adds for `other`: the negative, modulo 2^32, of what `other` adds for it."""
    pair = jax.random.fold_in(jax.random.fold_in(key, jnp.minimum(place, other)), jnp.maximum(place, other))
    leaves = jax.tree.leaves(like)
    each = keys.fold_in_each(pair, jnp.arange(len(leaves)))
    drawn = [jax.random.bits(one, leaf.shape, jnp.uint32) for one, leaf in zip(each, leaves)]
    signed = [jnp.where(other >= place, bits, jnp.zeros_like(bits) - bits) for bits in drawn]
    return jax.tree.unflatten(jax.tree.structure(like), signed)
