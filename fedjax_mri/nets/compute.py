"""How a network is computed: which convolution, in which precision, and what is kept for the gradient."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.nets.layers import ConvPolicy

PyTree = Any
Precision = Literal["float32", "tf32", "bf16"]

# What a network with `remat` keeps for the backward pass; what lies between is cheap and computed again.
KEPT = {"dot_general", "conv_general_dilated", "custom_vmap_call", "checkpoint"}
PRODUCTS = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "default"}


class Compute(NamedTuple):
    """Settings that change a network's time and memory; `conv` and `remat` its result by rounding only."""

    conv: ConvPolicy = "gemm"
    precision: Precision = "float32"  # tf32: products of 10-bit operands (NVIDIA); bf16: weights and activations too
    remat: bool = False  # keep the results of products and convolutions alone, recompute the rest

    def around(self, apply: Callable[..., tuple[Any, PyTree]]) -> Callable[..., tuple[Any, PyTree]]:
        """`apply(params, carry, *inputs) -> (output, carry)` computed this way; all it takes and gives is float32.

        Parameters and their gradients, norms' sums, running statistics and products' accumulators stay float32.
        """

        def computed(params: PyTree, carry: PyTree, *inputs: Any) -> tuple[Any, PyTree]:
            with jax.default_matmul_precision(PRODUCTS[self.precision]):
                if self.precision != "bf16":
                    return apply(params, carry, *inputs)
                output, carry = apply(_cast(params, jnp.bfloat16), carry, *_cast(inputs, jnp.bfloat16))
                return _cast(output, jnp.float32), carry

        if not self.remat:
            return computed
        return lambda params, carry, *inputs: jax.checkpoint(
            lambda p, c, arrays: computed(p, c, *_filled(inputs, arrays)), policy=_keep
        )(params, carry, [x for x in inputs if isinstance(x, jax.Array)])


def _keep(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in KEPT


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    def cast(leaf: Any) -> Any:
        return leaf.astype(dtype) if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def _filled(inputs: tuple[Any, ...], arrays: list[jax.Array]) -> list[Any]:
    """`inputs` with its arrays replaced, in order; what is no array, such as `train`, must stay static."""
    left = iter(arrays)
    return [next(left) if isinstance(x, jax.Array) else x for x in inputs]
