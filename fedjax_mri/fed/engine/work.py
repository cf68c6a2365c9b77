"""How much work a local step is, and how many lanes of it fill an accelerator."""

import math
from typing import Any

# A pass of all lanes should have so many operations in products: a millisecond of an H200 in float32, or of two TPU
# v5e. Its some hundred kernels then take longer than their starts. A choice by calculation, not measured.
PASS_FLOPS = 5e10
MOST_LANES = 64


def filling_lanes(step_flops: float, clients: int) -> int:
    """Returns the lanes, a power of two, that fill a device when a client's local step has `step_flops` operations.

    No more than `clients`, those that a device trains in a round.
    """
    wanted = 2 ** round(math.log2(max(PASS_FLOPS / max(step_flops, 1.0), 1.0)))
    return max(1, min(wanted, MOST_LANES, clients))


def product_flops(jaxpr: Any) -> float:
    """Returns the floating-point operations of all products and convolutions, those of a scan as often as it runs.

    The body of a loop of unknown length counts once.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(product_flops(one) for one in inner if hasattr(one, "eqns"))
        if equation.primitive.name == "dot_general":
            total += _product(equation)
        if equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
    return total


def _product(equation: Any) -> float:
    shape, contracted = equation.invars[0].aval.shape, equation.params["dimension_numbers"][0][0]
    return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    kernel, outputs = equation.invars[1].aval, equation.params["dimension_numbers"].rhs_spec[0]
    return 2.0 * equation.outvars[0].aval.size * kernel.size / kernel.shape[outputs]
