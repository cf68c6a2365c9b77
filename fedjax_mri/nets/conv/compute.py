"""How a network is computed: by which convolution, in which precision, and what is saved for its gradient."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fedjax_mri.nets.conv.conv2d import ConvPolicy

PyTree = Any
Precision = Literal["float32", "tf32", "bf16"]
Apply = Callable[..., tuple[Any, PyTree]]  # (params, carry, *inputs) -> (output, carry)

# Results that a network with `remat` saves for the backward pass; what lies between is cheap and computed again.
SAVED = {"dot_general", "conv_general_dilated", "custom_vmap_call", "checkpoint"}
MATMUL_PRECISION = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "default"}


class Compute(NamedTuple):
    """Settings that change a network's time and memory; `conv` and `remat` change its result by rounding only."""

    conv: ConvPolicy = "gemm"
    precision: Precision = "float32"  # tf32: products of 10-bit operands (NVIDIA); bf16: weights and activations too
    remat: bool = False  # save the results of products and convolutions alone, recompute the rest

    def wrap(self, apply: Apply) -> Apply:
        """Returns `apply` in this precision, saving what these settings say; all it takes and gives stays float32.

        Parameters and their gradients, norms' sums, running statistics and products' accumulators stay float32.
        """

        def computed(params: PyTree, carry: PyTree, *inputs: Any) -> tuple[Any, PyTree]:
            with jax.default_matmul_precision(MATMUL_PRECISION[self.precision]):
                if self.precision != "bf16":
                    return apply(params, carry, *inputs)
                output, carry = apply(_cast(params, jnp.bfloat16), carry, *_cast(inputs, jnp.bfloat16))
                return _cast(output, jnp.float32), carry

        def rematerialised(params: PyTree, carry: PyTree, *inputs: Any) -> tuple[Any, PyTree]:
            def of_arrays(params: PyTree, carry: PyTree, arrays: list[jax.Array]) -> tuple[Any, PyTree]:
                return computed(params, carry, *_with_arrays(inputs, arrays))

            saving = jax.checkpoint(of_arrays, policy=lambda primitive, *_, **__: primitive.name in SAVED)
            return saving(params, carry, [x for x in inputs if isinstance(x, jax.Array)])

        return rematerialised if self.remat else computed


def _cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    def cast(leaf: Any) -> Any:
        return leaf.astype(dtype) if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def _with_arrays(inputs: tuple[Any, ...], arrays: list[jax.Array]) -> list[Any]:
    """Returns `inputs` with its arrays replaced, in order; what is no array, such as `train`, must stay static."""
    remaining = iter(arrays)
    return [next(remaining) if isinstance(x, jax.Array) else x for x in inputs]
