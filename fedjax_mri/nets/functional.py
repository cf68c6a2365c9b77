"""The boundary between NNX modules and the pure functions that the rest of the package is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

PyTree = Any


class Net(NamedTuple):
    """A module as two pure functions over plain nested dicts of arrays."""

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]  # key -> (params, carry)
    apply: Callable[..., tuple[Any, PyTree]]  # (params, carry, *inputs) -> (output, carry)


def functional(build: Callable[[nnx.Rngs], nnx.Module]) -> Net:
    """`build(rngs)` as a `Net`: params are its `nnx.Param`s, carry is all else (running statistics)."""
    graph, params, carry = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param, ...)

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        _, *states = nnx.split(build(nnx.Rngs(key)), nnx.Param, ...)
        first, second = (nnx.to_pure_dict(state) for state in states)
        return first, second

    def apply(values: PyTree, statistics: PyTree, *inputs: Any) -> tuple[Any, PyTree]:
        module = nnx.merge(graph, _filled(params, values), _filled(carry, statistics))
        output = module(*inputs)
        return output, nnx.to_pure_dict(nnx.split(module, nnx.Param, ...)[2])

    return Net(init, apply)


def _filled(state: nnx.State, values: PyTree) -> nnx.State:
    filled = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(filled, values)
    return filled
