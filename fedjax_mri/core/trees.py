"""Arithmetic on pytrees, selection and splitting by masks, and their sizes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def split(mask: PyTree, tree: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the leaves where `mask` is true, and the others. Each tree has None where a leaf is missing."""
    chosen = jax.tree.map(lambda keep, leaf: leaf if keep else None, mask, tree)
    rest = jax.tree.map(lambda keep, leaf: None if keep else leaf, mask, tree)
    return chosen, rest


def join(first: PyTree, second: PyTree) -> PyTree:
    """Returns one tree of two that `split` made: each leaf from the tree that has it."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=lambda x: x is None)


def only(tree: PyTree, like: PyTree) -> PyTree:
    """Returns `tree` with None wherever `like`, a tree of the same structure, has None."""
    return jax.tree.map(lambda other, leaf: None if other is None else leaf, like, tree, is_leaf=lambda x: x is None)


def select(condition: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Returns `on_true` where `condition` bool [...] holds and `on_false` elsewhere.

    The leaves may have trailing axes that `condition` lacks.
    """

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        shaped = condition.reshape(condition.shape + (1,) * (max(a.ndim, b.ndim) - condition.ndim))
        return jnp.where(shaped, a, b)

    return jax.tree.map(pick, on_true, on_false)


def add(a: PyTree, b: PyTree) -> PyTree:
    """Returns a + b, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)


def subtract(a: PyTree, b: PyTree) -> PyTree:
    """Returns a - b, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def scale(factor: jax.Array | float, tree: PyTree) -> PyTree:
    """Returns the tree with each leaf multiplied by the scalar `factor`."""
    return jax.tree.map(lambda leaf: factor * leaf, tree)


def zeros_like(tree: PyTree) -> PyTree:
    """Returns zeros of the same shapes and dtypes. The leaves may be shapes alone (`jax.ShapeDtypeStruct`)."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def take(tree: PyTree, index: jax.Array) -> PyTree:
    """Returns the rows `index` of the leading axis of each leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def put(tree: PyTree, index: jax.Array, rows: PyTree) -> PyTree:
    """Returns `tree` with `rows` written at `index` of the leading axis; an index past the end is dropped."""
    return jax.tree.map(lambda leaf, row: leaf.at[index].set(row, mode="drop"), tree, rows)


def put_in_place(tree: PyTree, index: np.ndarray, rows: PyTree) -> None:
    """Writes `rows` at `index` of the leading axis of NumPy arrays. Rows with an index past the end are dropped."""
    for leaf, row in zip(jax.tree.leaves(tree), jax.tree.leaves(rows)):
        inside = index < len(leaf)
        leaf[index[inside]] = np.asarray(row)[inside]


def sum_by(tree: PyTree, group: np.ndarray, count: int) -> PyTree:
    """Returns the sums of rows [n] by their `group` int [n], with a leading axis [count]; group -1 is left out."""
    row = np.where(group < 0, count, group)

    def sum_rows(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return jnp.zeros((count, *leaf.shape[1:]), leaf.dtype).at[row].add(leaf, mode="drop")

    return jax.tree.map(sum_rows, tree)


def repeat(tree: PyTree, count: int) -> PyTree:
    """Returns each leaf repeated `count` times along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))), tree)


def norm(tree: PyTree) -> jax.Array:
    """Returns the Euclidean norm over all leaves, float32 []."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def clip_factor(norm: jax.Array, bound: jax.Array | float) -> jax.Array:
    """Returns the factor min(1, bound / norm) that brings a vector of that `norm` [...] to the bound; 1 at norm 0."""
    return jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-12))


def is_finite(tree: PyTree) -> jax.Array:
    """Returns whether all values of all leaves are finite, bool []."""
    return jnp.stack([jnp.array(True), *(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))]).all()


def count(tree: PyTree) -> int:
    """Returns the number of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
    """Returns the bytes of all leaves, which may be shapes alone."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def named(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves by their paths, such as "server.model.params"."""
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name(path: Any) -> str:
    """Returns a JAX key path as one word with dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".")
