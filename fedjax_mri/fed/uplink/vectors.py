"""The updates of a cohort as a rule sees them: points whose inner products are known, and whose values are read in
blocks.

A vector is an affine combination of the rows that clients have sent and of zero, the origin. Scaling, mixing and
averaging change these combinations, [M, K + 1] numbers, and never the rows, so that nothing of the size of the rows is
copied. Inner products are those of differences from one row whose norm is in the middle: few faulty rows cannot make
that norm large, and what all updates have in common does not cost precision.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
BLOCK = 1 << 22  # values of all rows that are read at once
LARGEST = 1e18  # norm beyond which the square of a difference may overflow; such a row is not finite here
dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Vectors(NamedTuple):
    """M vectors made of K rows."""

    rows: PyTree  # [K, ...], as they came
    finite: jax.Array  # bool [K]; rows that are not finite are read as zeros
    inner: jax.Array  # float32 [K + 1, K + 1], inner products of the rows and of zero, relative to one of the rows
    mix: jax.Array  # float32 [M, K + 1], a vector's parts of the rows and of zero; they add up to 1
    present: jax.Array  # bool [M]; the others must not count


def vectors_of(rows: PyTree, present: jax.Array) -> Vectors:
    """Returns the vectors of `rows` [K, ...], of which some are `present`, bool [K]."""
    squares = over_blocks(lambda block: jnp.sum(block**2, 1), jnp.zeros(len(present)), rows)
    finite = squares <= LARGEST**2
    usable = finite & present
    centre = jnp.argsort(jnp.where(usable, squares, jnp.inf))[usable.sum() // 2]

    def products(block: jax.Array) -> jax.Array:
        block = jnp.where(finite[:, None], block, 0.0)
        points = jnp.concatenate([block, jnp.zeros_like(block[:1])]) - block[centre][None]
        return dot(points, points.T)

    count = len(present) + 1
    inner = over_blocks(products, jnp.zeros((count, count)), rows)
    return Vectors(rows, finite, inner, jnp.eye(count)[:-1], present)


def over_blocks(function: Callable[..., jax.Array], total: jax.Array, *trees: PyTree) -> jax.Array:
    """Returns `total` plus the sum of `function` over blocks of the values of all leaves.

    `function` is given a block [K, C] of each of `trees`, whose leaves are [K, ...] with another K in each tree.
    """
    for leaves in zip(*map(jax.tree.leaves, trees)):
        flat = [leaf.reshape(len(leaf), -1) for leaf in leaves]
        size, whole = block_size(leaves[0])

        def at(start: jax.Array | int, width: int, flat: list[jax.Array] = flat) -> jax.Array:
            blocks = (jax.lax.dynamic_slice_in_dim(one, start, width, 1).astype(jnp.float32) for one in flat)
            return function(*blocks)

        if whole:
            step = lambda i, total, at=at, size=size: total + at(i * size, size)  # noqa: E731
            total = jax.lax.fori_loop(0, whole, step, total)
        if rest := flat[0].shape[1] - whole * size:
            total = total + at(whole * size, rest)
    return total


def block_size(leaf: jax.Array) -> tuple[int, int]:
    """Returns the width of a block of a leaf [K, ...], and how many whole blocks it has."""
    size = max(1, BLOCK // len(leaf))
    return size, leaf.size // len(leaf) // size


def each_value(vectors: Vectors, function: Callable[[jax.Array], jax.Array]) -> PyTree:
    """Returns the update whose values are `function` of the vectors' values, from [M, C] to [C]; block by block."""

    def combine(leaf: jax.Array) -> jax.Array:
        flat, (size, whole) = leaf.reshape(len(leaf), -1), block_size(leaf)

        def values(block: jax.Array) -> jax.Array:
            return function(read(vectors, block.astype(jnp.float32))).astype(leaf.dtype)

        def step(i: jax.Array, result: jax.Array) -> jax.Array:
            found = values(jax.lax.dynamic_slice_in_dim(flat, i * size, size, 1))
            return jax.lax.dynamic_update_slice_in_dim(result, found, i * size, 0)

        start = jnp.zeros(whole * size, leaf.dtype)
        parts = [jax.lax.fori_loop(0, whole, step, start)] if whole else []
        parts += [values(flat[:, whole * size :])] if flat.shape[1] > whole * size or not whole else []
        return jnp.concatenate(parts).reshape(leaf.shape[1:])

    return jax.tree.map(combine, vectors.rows)


def read(vectors: Vectors, block: jax.Array) -> jax.Array:
    """Returns the vectors' values [M, C] by those of the rows [K, C]."""
    return dot(vectors.mix[:, :-1], jnp.where(vectors.finite[:, None], block, 0.0))


def mean(vectors: Vectors, weights: jax.Array) -> PyTree:
    """Returns the sum of the vectors, times `weights` float32 [M]; the rest up to 1 counts for an update of zeros."""
    return each_value(vectors._replace(mix=dot(weights, vectors.mix)[None]), lambda block: block[0])


def squared_lengths(vectors: Vectors, parts: jax.Array) -> jax.Array:
    """Returns |sum_j parts_j p_j|^2, float32 [...], of the rows and zero p_j; `parts` [..., K + 1] add up to 0."""
    return jnp.maximum(jnp.sum(dot(parts, vectors.inner) * parts, -1), 0.0)


def norms(vectors: Vectors) -> jax.Array:
    """Returns the norm of each vector, float32 [M]."""
    return distances_to(vectors, origin(vectors))


def origin(vectors: Vectors) -> jax.Array:
    """Returns the parts [K + 1] of an update of zeros."""
    return jnp.zeros(len(vectors.inner)).at[-1].set(1.0)


def distances_to(vectors: Vectors, point: jax.Array) -> jax.Array:
    """Returns the distance of each vector from a point given by its parts [K + 1], float32 [M]; inf where absent."""
    return jnp.where(vectors.present, jnp.sqrt(squared_lengths(vectors, vectors.mix - point[None])), jnp.inf)


def distances_from(vectors: Vectors, centre: PyTree) -> jax.Array:
    """Returns the distance of each vector from an update that is not one of them, float32 [M]."""

    def squares(block: jax.Array, centre: jax.Array) -> jax.Array:
        return jnp.sum((read(vectors, block) - centre) ** 2, 1)

    one = jax.tree.map(lambda leaf: leaf[None], centre)
    return jnp.sqrt(over_blocks(squares, jnp.zeros(len(vectors.present)), vectors.rows, one))


def squared_distances(vectors: Vectors) -> jax.Array:
    """Returns the squared distances between vectors, float32 [M, M], 0 on the diagonal; inf where one is absent."""
    found = jax.lax.map(lambda one: squared_lengths(vectors, vectors.mix - one[None]), vectors.mix)
    return jnp.where(pairs(vectors.present), found, jnp.inf)


def centred_products(vectors: Vectors, weights: jax.Array) -> jax.Array:
    """Returns the inner products [M, M] of the vectors' differences from the mean by `weights` [M]."""
    parts = vectors.mix - dot(weights, vectors.mix)[None]
    return dot(dot(parts, vectors.inner), parts.T)


def pairs(among: jax.Array) -> jax.Array:
    """Returns whether both vectors of each pair are `among` [M] some of them, bool [M, M]."""
    return among[:, None] & among[None]


def nearest(distances: jax.Array, count: jax.Array | int) -> jax.Array:
    """Returns whether each of `distances` [..., M] is among the `count` smallest; of equal ones the first are."""
    ranks = jnp.argsort(jnp.argsort(distances, -1, stable=True), -1)
    return (ranks < count) & (distances < jnp.inf)


def uniform_weights(chosen: jax.Array) -> jax.Array:
    """Returns equal weights that add up to 1 for those `chosen`, bool [..., M]; zeros if none is."""
    ones = chosen.astype(jnp.float32)
    return ones / jnp.maximum(ones.sum(-1, keepdims=True), 1.0)
