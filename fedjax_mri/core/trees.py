"""Pytrees as vectors: select, split by a mask, add, measure."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def split(mask: PyTree, tree: PyTree) -> tuple[PyTree, PyTree]:
    """The leaves where `mask` is true, and the others; each tree has None where a leaf is missing."""
    chosen = jax.tree.map(lambda keep, leaf: leaf if keep else None, mask, tree)
    rest = jax.tree.map(lambda keep, leaf: None if keep else leaf, mask, tree)
    return chosen, rest


def join(first: PyTree, second: PyTree) -> PyTree:
    """The inverse of `split`: each leaf from whichever tree has it."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda x: x is None)


def only(tree: PyTree, like: PyTree) -> PyTree:
    """The leaves of `tree` that `like`, the same tree with None here and there, has as well."""
    return jax.tree.map(lambda there, leaf: None if there is None else leaf, like, tree, is_leaf=lambda x: x is None)


def select(condition: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """`on_true` where `condition` [...] holds; it may have trailing axes in each leaf that `condition` lacks."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        shaped = condition.reshape(condition.shape + (1,) * (max(a.ndim, b.ndim) - condition.ndim))
        return jnp.where(shaped, a, b)

    return jax.tree.map(pick, on_true, on_false)


def add(a: PyTree, b: PyTree) -> PyTree:
    """Leafwise a + b."""
    return jax.tree.map(jnp.add, a, b)


def subtract(a: PyTree, b: PyTree) -> PyTree:
    """Leafwise a - b."""
    return jax.tree.map(jnp.subtract, a, b)


def scale(factor: jax.Array | float, tree: PyTree) -> PyTree:
    """Leafwise factor * leaf for a scalar factor."""
    return jax.tree.map(lambda leaf: factor * leaf, tree)


def zeros_like(tree: PyTree) -> PyTree:
    """Zeros of the same shapes and dtypes; works on shapes alone (`jax.ShapeDtypeStruct`)."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def take(tree: PyTree, index: jax.Array) -> PyTree:
    """Rows `index` of the leading axis of each leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def put(tree: PyTree, index: jax.Array, rows: PyTree) -> PyTree:
    """`tree` with `rows` written at `index` of the leading axis; an index past the end is dropped."""
    return jax.tree.map(lambda leaf, row: leaf.at[index].set(row, mode="drop"), tree, rows)


def put_in_place(tree: PyTree, index: np.ndarray, rows: PyTree) -> None:
    """`put` into NumPy arrays, which change."""
    for leaf, row in zip(jax.tree.leaves(tree), jax.tree.leaves(rows)):
        there = index < len(leaf)
        leaf[index[there]] = np.asarray(row)[there]


def sum_by(tree: PyTree, group: np.ndarray, count: int) -> PyTree:
    """Rows of the leading axis [n] summed by their `group` int [n] of `count`; rows of group -1 are left out."""
    place = np.where(group < 0, count, group)

    def one(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return jnp.zeros((count, *leaf.shape[1:]), leaf.dtype).at[place].add(leaf, mode="drop")

    return jax.tree.map(one, tree)


def repeat(tree: PyTree, count: int) -> PyTree:
    """Each leaf `count` times along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))), tree)


def norm(tree: PyTree) -> jax.Array:
    """Euclidean norm over all leaves, in float32."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def count(tree: PyTree) -> int:
    """Number of scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
    """Bytes of all leaves; works on shapes alone."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths, such as "server.model.params"."""
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name(path: Any) -> str:
    """A path of JAX's in one word."""
    return jax.tree_util.keystr(path, simple=True, separator=".")
