"""The boundary between NNX modules and the pure functions that the rest of the package is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from fedjax_mri.nets.compute import Compute

PyTree = Any
AS_GIVEN = Compute()


class Net(NamedTuple):
    """A module as two pure functions over plain nested dicts of arrays."""

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]  # key -> (params, carry)
    apply: Callable[..., tuple[Any, PyTree]]  # (params, carry, *inputs) -> (output, carry)


def functional(build: Callable[[nnx.Rngs], nnx.Module], compute: Compute = AS_GIVEN) -> Net:
    """`build(rngs)` as a `Net`: params are its `nnx.Param`s, carry is all else (running statistics)."""
    graph, (params, carry) = _split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        _, (values, statistics) = _split(build(nnx.Rngs(key)))
        return nnx.to_pure_dict(values), nnx.to_pure_dict(statistics)

    def apply(values: PyTree, statistics: PyTree, *inputs: Any) -> tuple[Any, PyTree]:
        module = nnx.merge(graph, _filled(params, values), _filled(carry, statistics))
        output = module(*inputs)
        return output, nnx.to_pure_dict(_split(module)[1][1])

    return Net(init, compute.around(apply))


def _split(module: nnx.Module) -> tuple[Any, list[Any]]:
    graph, *states = nnx.split(module, nnx.Param, ...)
    return graph, states


def _filled(state: nnx.State, values: PyTree) -> nnx.State:
    filled = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(filled, values)
    return filled
