"""Runs a traced network by rules that make its gradient a relevance; a network of primitives with rules needs no more.

Relevance R of a value z is kept as R / z, the slope that plain backpropagation would carry. Between activations all is
linear and the slope is the ordinary gradient; at an activation, which hands the relevance of its output to its input
unchanged, a rule says by which parts of the input the slope goes on. What the rules weigh differently, positive and
negative contributions since the last activation, is carried forward as two parts of each value. A convolution, its
norm and its bias are thus one layer, as if they had been merged.

Constants, through which no relevance goes: statistics of norms (means too: what they subtract takes its share as a
bias does), the gate of a product (SiLU, GELU, squeeze and excitation), and the weights of softmax attention. These are
the LN and AH rules of Ali et al. (2022), with the means constant as well; a product of two values without a gate gives
half to each (Achtibat et al. 2024).
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.xai.method import Scores
from fedjax_mri.xai.trace import CALLS, CUSTOM, evaluate, run, shape, traced

# (relevance of a layer's result, its parts, of which the second may be None) -> the slope of each part
Spread = Callable[[jax.Array, jax.Array, jax.Array | None], tuple[jax.Array, jax.Array | None]]
Kind = Literal["plain", "mean", "gate"]


class Rules(NamedTuple):
    """How relevance is spread over a layer's inputs, and whether that needs the two parts of each value."""

    spread: Spread
    parts: bool


class Signal(NamedTuple):
    """A value that depends on x, as the sum of what raises it and what lowers it; None is zero.

    Without parts `positive_part` is all of it.
    """

    positive_part: jax.Array | None
    negative_part: jax.Array | None = None
    kind: Kind = "plain"  # mean: a sum over places that nothing learnt has touched; gate: of a saturating function


def with_relevance_gradient(scores: Scores, rules: Rules) -> Scores:
    """Returns the same scores with another gradient: x times it is the relevance of x.

    Raises UserError, when called, on a network with an equation that has no rule.
    """

    def with_rules(x: jax.Array) -> jax.Array:
        closed_jaxpr = traced(scores, x, CALLS | CUSTOM)
        (logits,) = run(closed_jaxpr, [split_by_sign(rules, x)], partial(step, rules))
        return whole(activation(rules, lambda z: z, logits))

    return with_rules


def step(rules: Rules, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Computes an equation on signals and constants by its rule."""
    name = eqn.primitive.name
    if name in CONSTANT or not any(isinstance(value, Signal) for value in values):
        return evaluate(eqn, [constant(value) for value in values])
    if name not in RULES:
        raise UserError(
            f"LRP has no rule for {name!r}: explain a network of convolutions, dense layers, norms, pooling, "
            "activations and attention, or choose another method"
        )
    return RULES[name](rules, eqn, *values)


def whole(value: Any) -> jax.Array:
    """Returns a value without its parts: their sum, or the constant itself."""
    return total(value.positive_part, value.negative_part) if isinstance(value, Signal) else value


def constant(value: Any) -> Any:
    """Returns a value through which no relevance goes."""
    return jax.lax.stop_gradient(whole(value)) if isinstance(value, Signal) else value


def total(positive_part: jax.Array | None, negative_part: jax.Array | None) -> Any:
    """Returns the sum of two parts of which one may be None."""
    if positive_part is None:
        return negative_part
    return positive_part if negative_part is None else positive_part + negative_part


def split_by_sign(rules: Rules, value: jax.Array, positive: bool = False, kind: Kind = "plain") -> Signal:
    """Returns a signal whose parts are the value's positive and negative numbers.

    An activation leaves such a signal, and a constant enters a sum as one.
    """
    if not rules.parts or positive or at_least_zero(value):
        return Signal(value, None, kind)
    return Signal(jnp.maximum(value, 0), jnp.minimum(value, 0), kind)


def at_least_zero(value: Any) -> bool:
    """Returns whether a value is a single number that is known to be 0 or more."""
    return np.size(value) == 1 and is_concrete(value) and bool(np.all(np.asarray(value) >= 0))


def activation(rules: Rules, function: Callable[..., jax.Array], signal: Any, *others: Any, pools: bool = False) -> Any:
    """Returns function(signal, *others), whose relevance goes to the signal alone; the result has no parts yet.

    With `pools` the relevance goes where the function's own gradient points; otherwise it stays in its place.
    """

    @jax.custom_vjp
    def apply(others: Any, positive_part: jax.Array, negative_part: jax.Array | None) -> jax.Array:
        return function(total(positive_part, negative_part), *others)

    def forward(others: Any, positive_part: jax.Array, negative_part: jax.Array | None) -> tuple[jax.Array, Any]:
        y = apply(others, positive_part, negative_part)
        return y, (others, positive_part, negative_part, y)

    def backward(kept: Any, slope: jax.Array) -> tuple[Any, ...]:
        others, positive_part, negative_part, y = kept
        relevance = slope * y
        if pools:
            z = total(positive_part, negative_part)
            relevance = z * jax.vjp(lambda z: function(z, *others), z)[1](slope)[0]
        return None, *rules.spread(relevance, positive_part, negative_part)

    apply.defvjp(forward, backward)
    positive_part = jnp.zeros_like(signal.negative_part) if signal.positive_part is None else signal.positive_part
    return apply(others, positive_part, signal.negative_part)


def combine(function: Callable[..., Any], *signals: Signal, kind: Kind = "plain") -> Signal:
    """Applies a linear function of several signals to each part."""
    zeros = [jnp.zeros_like(whole(signal)) for signal in signals]

    def part(values: tuple[jax.Array | None, ...]) -> Any:
        if all(value is None for value in values):
            return None
        return function(*[zero if value is None else value for value, zero in zip(values, zeros)])

    return Signal(part(tuple(s.positive_part for s in signals)), part(tuple(s.negative_part for s in signals)), kind)


def multiply(
    rules: Rules, product: Callable[..., jax.Array], signal: Signal, factor: Any, kind: Kind = "plain"
) -> Signal:
    """Returns product(signal, factor), linear in both; where the factor is negative the two parts change places."""
    positive_part, negative_part = signal.positive_part, signal.negative_part

    def times(part: jax.Array | None, factor: Any) -> jax.Array | None:
        return None if part is None else product(part, factor)

    if not rules.parts or at_least_zero(factor):
        return Signal(times(positive_part, factor), times(negative_part, factor), kind)
    plus, minus = jnp.maximum(factor, 0), jnp.minimum(factor, 0)
    return Signal(
        total(times(positive_part, plus), times(negative_part, minus)),
        total(times(positive_part, minus), times(negative_part, plus)),
        kind,
    )


def as_signal(rules: Rules, value: Any) -> Signal:
    """Returns the signal itself, or a constant as a signal."""
    return value if isinstance(value, Signal) else split_by_sign(rules, jnp.asarray(value))


def negative(rules: Rules, signal: Signal) -> Signal:
    """Returns the negative of a signal, whose parts change places."""
    positive_part, negative_part = (None if part is None else -part for part in signal[:2])
    return (
        Signal(negative_part, positive_part, signal.kind)
        if rules.parts
        else Signal(positive_part, negative_part, signal.kind)
    )


def primitive_of(eqn: JaxprEqn) -> Callable[..., Any]:
    """Returns the function that an equation applies to its inputs."""
    return lambda *values: eqn.primitive.bind(*values, **eqn.params)


# Rules: (rules, equation, *values) -> the outputs, signals or constants.


def move_rule(rules: Rules, eqn: JaxprEqn, signal: Signal, *others: Any) -> list[Any]:
    """Applies a primitive that moves or sums values.

    A mean or a gate that is spread over an image counts as a constant.
    """
    grows = prod(shape(eqn.outvars[0])) > prod(shape(eqn.invars[0]))
    if grows and signal.kind != "plain":
        return evaluate(eqn, [constant(signal), *others])
    kind: Kind = "mean" if eqn.primitive.name == "reduce_sum" else signal.kind
    parts = [None if part is None else evaluate(eqn, [part, *map(constant, others)]) for part in signal[:2]]
    nothing = [None] * len(eqn.outvars)
    return [
        Signal(positive_part, negative_part, kind)
        for positive_part, negative_part in zip(parts[0] or nothing, parts[1] or nothing)
    ]


def join_rule(rules: Rules, eqn: JaxprEqn, *values: Any) -> list[Any]:
    """Applies a primitive that joins several values into one."""
    return [combine(primitive_of(eqn), *[as_signal(rules, value) for value in values])]


def select_rule(rules: Rules, eqn: JaxprEqn, which: Any, *cases: Any) -> list[Any]:
    """Applies a choice among cases; which one is chosen has no relevance."""
    return [combine(partial(primitive_of(eqn), constant(which)), *[as_signal(rules, case) for case in cases])]


def sum_rule(rules: Rules, eqn: JaxprEqn, a: Any, b: Any) -> list[Any]:
    """Applies a sum or difference; a mean that is spread over an image counts as a constant."""
    size = prod(shape(eqn.outvars[0]))
    a, b = (constant(v) if isinstance(v, Signal) and v.kind == "mean" and whole(v).size < size else v for v in (a, b))
    kinds = {value.kind for value in (a, b) if isinstance(value, Signal)}
    a, b = as_signal(rules, a), as_signal(rules, b)
    b = negative(rules, b) if eqn.primitive.name == "sub" else b
    kind: Kind = kinds.pop() if len(kinds) == 1 else "plain"
    return [combine(jnp.add, a, b, kind=kind)]


def negate_rule(rules: Rules, eqn: JaxprEqn, signal: Signal) -> list[Any]:
    """Applies a change of sign."""
    return [negative(rules, signal)]


def product_rule(rules: Rules, eqn: JaxprEqn, a: Any, b: Any) -> list[Any]:
    """Applies a product.

    It is one by a constant; or of a value and its gate, which is an activation where they have one shape; or of two
    values, half of the relevance to each.
    """
    if not (isinstance(a, Signal) and isinstance(b, Signal)):
        signal, factor = (a, b) if isinstance(a, Signal) else (b, a)
        return [multiply(rules, jnp.multiply, signal, factor, signal.kind)]
    if (a.kind == "gate") == (b.kind == "gate"):
        return linear_rule(rules, eqn, a, b)
    signal, gate = (a, constant(b)) if b.kind == "gate" else (b, constant(a))
    if gate.shape != whole(signal).shape:
        return [multiply(rules, jnp.multiply, signal, gate)]
    return [split_by_sign(rules, activation(rules, jnp.multiply, signal, gate))]


def divide_rule(rules: Rules, eqn: JaxprEqn, a: Any, b: Any) -> list[Any]:
    """Applies a division, whose divisor has no relevance."""
    if not isinstance(a, Signal):
        return evaluate(eqn, [a, constant(b)])
    return [multiply(rules, jnp.multiply, a, 1 / constant(b), a.kind)]


def linear_rule(rules: Rules, eqn: JaxprEqn, a: Any, b: Any) -> list[Any]:
    """Applies a dense layer, a convolution or a product of two values."""
    bind = primitive_of(eqn)
    left = partial(multiply, rules, bind)
    right = partial(multiply, rules, lambda part, factor: bind(factor, part))
    if not isinstance(b, Signal):
        return [left(a, b)]
    if not isinstance(a, Signal):
        return [right(b, a)]
    half = combine(jnp.add, left(a, constant(b)), right(b, constant(a)))
    return [multiply(rules, jnp.multiply, half, np.float32(0.5))]


def max_rule(rules: Rules, eqn: JaxprEqn, a: Any, b: Any) -> list[Any]:
    """Applies a ReLU, or takes the larger of two values, which gets all relevance."""
    if not (isinstance(a, Signal) and isinstance(b, Signal)):
        return activation_rule(rules, eqn, a, b)
    first = constant(a) >= constant(b)
    return [combine(partial(jnp.where, first), a, b)]


def activation_rule(rules: Rules, eqn: JaxprEqn, *values: Any, pools: bool = False) -> list[Any]:
    """Applies a nonlinear function of each value alone, or with `pools` of each window.

    Raises UserError where it is a function of several values that have relevance.
    """
    place, *more = [place for place, value in enumerate(values) if isinstance(value, Signal)]
    if more:
        raise UserError(
            f"LRP has no rule for {eqn.primitive.name!r} of several results of layers: change the network, or choose "
            "another method"
        )
    others = [value for value in values if not isinstance(value, Signal)]

    def function(z: jax.Array, *others: Any) -> jax.Array:
        return evaluate(eqn, [*others[:place], z, *others[place:]])[0]

    name = eqn.primitive.name
    positive = name in POSITIVE or (name == "max" and at_least_zero(others[0]))
    y = activation(rules, function, values[place], *others, pools=pools)
    return [split_by_sign(rules, y, positive, "gate" if name in GATES else "plain")]


CONSTANT = {
    *("rsqrt", "sqrt", "exp", "exp2", "log", "log1p", "stop_gradient", "sign", "floor", "ceil", "round", "is_finite"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "argmax", "argmin"),
}
GATES = ("logistic", "tanh", "erf", "erfc")
POSITIVE = {"logistic", "square", "abs"}
MOVES = (
    *("reshape", "transpose", "squeeze", "broadcast_in_dim", "slice", "dynamic_slice", "gather", "rev", "split"),
    *("reduce_sum", "reduce_window_sum", "cumsum", "convert_element_type", "reduce_precision", "copy"),
)
RULES: dict[str, Callable[..., list[Any]]] = {
    **dict.fromkeys(MOVES, move_rule),
    **dict.fromkeys(("concatenate", "pad"), join_rule),
    **dict.fromkeys(("add", "sub", "add_any"), sum_rule),
    **dict.fromkeys((*GATES, "min", "clamp", "abs", "square", "integer_pow"), activation_rule),
    **dict.fromkeys(("reduce_max", "reduce_window_max"), partial(activation_rule, pools=True)),
    **dict.fromkeys(("dot_general", "conv_general_dilated"), linear_rule),
    "select_n": select_rule,
    "neg": negate_rule,
    "mul": product_rule,
    "div": divide_rule,
    "max": max_rule,
}
