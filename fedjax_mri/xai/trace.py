"""Traces a function into a flat list of equations, and runs them as they are, in part, or by other rules."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

Values = dict[Var, Any]
Step = Callable[[JaxprEqn, list[Any]], list[Any]]  # an equation and its inputs' values -> its outputs' values

CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_vmap_call"}
# Functions with a gradient of their own; within they may hold what has a worse one, or none.
CUSTOM = {"custom_jvp_call", "custom_vjp_call"}


def traced(function: Callable[[jax.Array], jax.Array], x: jax.Array, calls: set[str]) -> ClosedJaxpr:
    """Returns the equations of function(x), with those that call others replaced by what they call.

    `calls` names those that call others.
    """

    def step(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        if eqn.primitive.name not in calls:
            return evaluate(eqn, values)
        called = next(inner for inner in eqn.params.values() if isinstance(inner, (Jaxpr, ClosedJaxpr)))
        closed_jaxpr = called if isinstance(called, ClosedJaxpr) else ClosedJaxpr(called, ())
        return run(closed_jaxpr, values, step)

    nested = jax.make_jaxpr(function)(x)
    return jax.make_jaxpr(lambda x: run(nested, [x], step)[0])(x)


def run(closed_jaxpr: ClosedJaxpr, inputs: list[Any], step: Step) -> list[Any]:
    """Returns the outputs of a traced function when `step` computes each equation."""
    values = dict(zip(closed_jaxpr.jaxpr.constvars, closed_jaxpr.consts)) | dict(zip(closed_jaxpr.jaxpr.invars, inputs))
    evaluate_all(closed_jaxpr.jaxpr.eqns, values, step)
    return [read(values, atom) for atom in closed_jaxpr.jaxpr.outvars]


def evaluate_all(equations: Iterable[JaxprEqn], values: Values, step: Step) -> None:
    """Computes equations by `step`, and adds their outputs to `values`."""
    for eqn in equations:
        values.update(zip(eqn.outvars, step(eqn, [read(values, atom) for atom in eqn.invars])))


def read(values: Values, atom: Any) -> Any:
    """Returns the value of a variable or of a literal."""
    return atom.val if isinstance(atom, Literal) else values[atom]


def shape(atom: Any) -> tuple[int, ...]:
    """Returns the shape of the value of a variable or literal."""
    return atom.aval.shape


def evaluate(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Computes an equation as JAX would."""
    if eqn.primitive.name in CUSTOM:  # these are bound in ways that differ between versions of jax
        variables = {atom: value for atom, value in zip(eqn.invars, values) if not isinstance(atom, Literal)}
        inner = eqn.params["call_jaxpr"].jaxpr
        alone = inner.replace(constvars=[], invars=list(variables), outvars=eqn.outvars, eqns=[eqn])
        return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*variables.values())
    outputs = eqn.primitive.bind(*values, **eqn.params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]
