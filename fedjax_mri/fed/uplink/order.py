"""Rules on each value alone: sums of a column's values in order of size.

Up to SMALL vectors are sorted by Batcher's network of minima and maxima, which compiles to one pass over the values
(Batcher 1968, Sorting networks and their applications). XLA's sort took a hundred times as long on a CPU.
"""

import jax
import jax.numpy as jnp

from fedjax_mri.fed.uplink.vectors import uniform_weights

SMALL = 32  # vectors; a network of more takes long to compile


def ranks_between(size: int, low: jax.Array | int, high: jax.Array | int) -> jax.Array:
    """Returns equal weights for the ranks from `low` to `high` - 1 of `size`, float32 [size]."""
    rank = jnp.arange(size)
    return uniform_weights((rank >= low) & (rank < high))


def median_weights(present: jax.Array) -> jax.Array:
    """Returns the weights of ranks by which values are summed to the median of those `present`, bool [M]."""
    count = present.sum()
    return ranks_between(len(present), (count - 1) // 2, count // 2 + 1)


def sum_by_rank(block: jax.Array, present: jax.Array, weights: jax.Array, by_size: bool = False) -> jax.Array:
    """Returns the sum of the values of each column in ascending order, times `weights` [M]: [C] of `block` [M, C].

    Absent values come last, and must have no weight. With `by_size` the order is that of magnitudes; of two that are
    equal the negative one comes first.
    """
    block = jnp.where(present[:, None], block, jnp.inf)
    if len(block) > SMALL:
        keys = (jnp.abs(block), block) if by_size else (block,)
        ordered = list(jax.lax.sort(keys, dimension=0, num_keys=len(keys))[-1])
    else:
        ordered = list(block)
        for a, b in comparisons(len(block)):
            ordered[a], ordered[b] = smaller_first(ordered[a], ordered[b], by_size)
    return sum((jnp.where(w > 0, w * row, 0.0) for w, row in zip(weights, ordered)), jnp.zeros_like(block[0]))


def smaller_first(a: jax.Array, b: jax.Array, by_size: bool) -> tuple[jax.Array, jax.Array]:
    """Returns the smaller and the larger value of two rows [C]."""
    if not by_size:
        return jnp.minimum(a, b), jnp.maximum(a, b)
    first = (jnp.abs(a) < jnp.abs(b)) | ((jnp.abs(a) == jnp.abs(b)) & (a <= b))
    return jnp.where(first, a, b), jnp.where(first, b, a)


def comparisons(size: int) -> list[tuple[int, int]]:
    """Returns the pairs that Batcher's odd-even merge sort compares, in order; the smaller value goes first."""
    pairs, part = [], 1
    while part < size:
        step = part
        while step:
            starts = range(step % part, size - step, 2 * step)
            near = ((i, i + step) for start in starts for i in range(start, min(start + step, size - step)))
            pairs += [(a, b) for a, b in near if a // (2 * part) == b // (2 * part)]
            step //= 2
        part *= 2
    return pairs


def mean_near_median(block: jax.Array, present: jax.Array, count: jax.Array | int) -> jax.Array:
    """Returns the mean of the `count` values nearest the median in each column, [C] of `block` [M, C]."""
    centre = sum_by_rank(block, present, median_weights(present))
    return centre + sum_by_rank(block - centre[None], present, ranks_between(len(block), 0, count), by_size=True)
