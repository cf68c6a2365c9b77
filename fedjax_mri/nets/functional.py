"""The boundary between NNX modules and the pure functions that the rest of the package is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.layers import HE, Layers
from fedjax_mri.nets.norm import ImageNorm, NormKind

PyTree = Any


class Net(NamedTuple):
    """A network as two pure functions over plain nested dicts of arrays."""

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]  # key -> (params, carry)
    apply: Callable[..., tuple[Any, PyTree]]  # (params, carry, *inputs) -> (output, carry)


def functional(
    build: Callable[[Layers], nnx.Module],
    compute: Compute,
    norm: NormKind | ImageNorm = "group",
    init: nnx.Initializer = HE,
) -> Net:
    """Returns the network that `build` makes as a `Net`.

    Its params are the network's `nnx.Param`s, its carry is all else (running statistics).

    `norm` is its layers' norm, `init` draws its convolutions' kernels. Raises UserError if the network keeps a key or a
    counter for random numbers, as `nnx.Dropout` does: they would travel and be averaged as statistics are.
    """

    def module(key: int | jax.Array) -> nnx.Module:
        return build(Layers(nnx.Rngs(key), compute.conv, norm, init))

    shapes = nnx.eval_shape(lambda: module(0))
    refuse_random_state(shapes)
    graph, (params, carry) = _split(shapes)

    def initial(key: jax.Array) -> tuple[PyTree, PyTree]:
        _, (values, statistics) = _split(module(key))
        return nnx.to_pure_dict(values), nnx.to_pure_dict(statistics)

    def apply(values: PyTree, statistics: PyTree, *inputs: Any) -> tuple[Any, PyTree]:
        merged = nnx.merge(graph, _with_values(params, values), _with_values(carry, statistics))
        output = merged(*inputs)
        return output, nnx.to_pure_dict(_split(merged)[1][1])

    return Net(initial, compute.wrap(apply))


def refuse_random_state(module: nnx.Module) -> None:
    """Raises UserError, naming it, if a module holds a key or a counter for random numbers."""
    found = list(trees.named(nnx.to_pure_dict(nnx.state(module, nnx.RngState))))
    if found:
        raise UserError(
            f"network {type(module).__name__}: {found[0]} is random state, which clients cannot average; in place of "
            "nnx.Dropout call fedjax_mri.nets.dropout.dropout(x, rate, key) with the key that __call__ is given, and "
            "keep no nnx.Rngs"
        )


def _split(module: nnx.Module) -> tuple[Any, list[Any]]:
    graph, *states = nnx.split(module, nnx.Param, ...)
    return graph, states


def _with_values(state: nnx.State, values: PyTree) -> nnx.State:
    copy = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(copy, values)
    return copy
