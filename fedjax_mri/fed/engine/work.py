"""How much work a local step is, and how many lanes of it fill an accelerator."""

import math
from typing import Any

from jax.interpreters import partial_eval

# A pass of all lanes should have so many operations in products. On a GPU they are a millisecond of an H200 in float32,
# so that its some hundred kernels take longer than their starts. On a TPU they are fewer: the compiler keeps the arrays
# of a small pass in the chip's own memory. W1 on a v5e moves .001 GB a step with one lane and .094 with 16, by its
# compiled program. Both numbers are chosen by such counts, not by time.
PASS_FLOPS = {"gpu": 5e10, "tpu": 2e9}
MOST_LANES = 64


def filling_lanes(platform: str, step_flops: float, clients: int) -> int:
    """Returns how many lanes fill a device when a client's local step has `step_flops` operations.

    It is a power of two, or `clients`, those that a device trains in a round, if these are fewer. A platform that is no
    TPU counts as a GPU.
    """
    pass_flops = PASS_FLOPS.get(platform, PASS_FLOPS["gpu"])
    wanted = 2 ** round(math.log2(max(pass_flops / max(step_flops, 1.0), 1.0)))
    return max(1, min(wanted, MOST_LANES, clients))


def product_flops(jaxpr: Any) -> float:
    """Returns the floating-point operations of all products and convolutions, those of a scan as often as it runs.

    The body of a loop of unknown length counts once, and of branches the one with most operations. What no result needs
    does not count, such as the gradient by the images.
    """
    return _count(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])


def _count(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(_count(one) for one in inner if hasattr(one, "eqns"))
        total += max((_count(branch.jaxpr) for branch in equation.params.get("branches", ())), default=0.0)
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
