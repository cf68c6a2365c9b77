"""Cuts a traced network in two at a layer from whose values all later ones are computed."""

from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.method import Scores
from fedjax_mri.xai.trace import CALLS, Values, evaluate, evaluate_all, read, shape, traced

# A layer's result is taken after the norm and nonlinearity that follow these.
PRODUCTS = {"conv_general_dilated", "dot_general"}
MOVES = {"reshape", "transpose", "concatenate", "pad", "slice", "broadcast_in_dim", "squeeze", "gather", "rev"}


def cut(scores: Scores, x: jax.Array, layer: int) -> tuple[jax.Array, Scores]:
    """Returns features [B, h, w, C] of a layer, and the function from them to the scores.

    `layer` counts sizes from the end: -1 is the last activation of more than one pixel, -2 the last of the size before.
    Raises UserError where there is none.
    """
    closed_jaxpr = traced(scores, x, CALLS)
    equations, found = closed_jaxpr.jaxpr.eqns, activations(closed_jaxpr)
    if not -len(found) <= layer < 0:
        raise UserError(
            f"layer={layer}: the network has activations [B, h, w, C] of {len(found)} sizes"
            + (f", give -1 to {-len(found)}" if found else ", so it has no CAM: choose another method")
        )
    place, variable = found[layer]
    constants, from_x = dict(zip(closed_jaxpr.jaxpr.constvars, closed_jaxpr.consts)), dependent(closed_jaxpr)
    free = [eqn for eqn in equations[: place + 1] if not from_x & set(eqn.outvars)]

    def tail(features: jax.Array) -> jax.Array:
        values: Values = constants | {variable: features}
        evaluate_all([*free, *equations[place + 1 :]], values, evaluate)
        return read(values, closed_jaxpr.jaxpr.outvars[0])

    return evaluate_up_to(closed_jaxpr, place, x)[variable], tail


def features(scores: Scores, x: jax.Array) -> list[jax.Array]:
    """Returns the last activations [B, h, w, C] of each size, the largest first; those that `cut` counts."""
    closed_jaxpr = traced(scores, x, CALLS)
    found = activations(closed_jaxpr)
    values = evaluate_up_to(closed_jaxpr, found[-1][0], x) if found else {}
    return [values[variable] for _, variable in found]


def evaluate_up_to(closed_jaxpr: ClosedJaxpr, place: int, x: jax.Array) -> Values:
    """Returns all values that are computed from x up to and with the equation at `place`."""
    values: Values = dict(zip(closed_jaxpr.jaxpr.constvars, closed_jaxpr.consts)) | {closed_jaxpr.jaxpr.invars[0]: x}
    evaluate_all(closed_jaxpr.jaxpr.eqns[: place + 1], values, evaluate)
    return values


def activations(closed_jaxpr: ClosedJaxpr) -> list[tuple[int, Var]]:
    """Returns the layers on every way from x to the scores, each with the place of its equation.

    They are outputs [B, h, w, C] of equations, h and w above 1; of neighbours of one size the last.
    """
    last, images, from_x = last_uses(closed_jaxpr), closed_jaxpr.jaxpr.invars[0], dependent(closed_jaxpr)
    waiting, found = {images}, list[tuple[int, Var]]()
    for place, eqn in enumerate(closed_jaxpr.jaxpr.eqns):
        waiting |= from_x.intersection(eqn.outvars)
        waiting = {variable for variable in waiting if last.get(variable, -1) > place}
        if waiting == {eqn.outvars[0]} and is_layer(eqn, images):
            if found and shape(found[-1][1]) == shape(eqn.outvars[0]):
                found.pop()
            found.append((place, eqn.outvars[0]))
    return found


def is_layer(eqn: JaxprEqn, images: Var) -> bool:
    """Returns whether an equation's result is activations of more than one pixel for each image."""
    size = shape(eqn.outvars[0])
    spatial = len(size) == 4 and size[0] == shape(images)[0] and min(size[1:3]) > 1
    return spatial and eqn.primitive.name not in PRODUCTS | MOVES


def dependent(closed_jaxpr: ClosedJaxpr) -> set[Var]:
    """Returns the variables that depend on x."""
    found = set(closed_jaxpr.jaxpr.invars)
    for eqn in closed_jaxpr.jaxpr.eqns:
        if found & variables(eqn.invars):
            found |= set(eqn.outvars)
    return found


def last_uses(closed_jaxpr: ClosedJaxpr) -> dict[Var, int]:
    """Returns each variable -> the last equation that needs it for the scores.

    The scores themselves are needed after all equations.
    """
    count = len(closed_jaxpr.jaxpr.eqns)
    last = dict.fromkeys(variables(closed_jaxpr.jaxpr.outvars), count)
    for place in reversed(range(count)):
        eqn = closed_jaxpr.jaxpr.eqns[place]
        if any(variable in last for variable in eqn.outvars):
            last = dict.fromkeys(variables(eqn.invars), place) | last
    return last


def variables(atoms: Any) -> set[Var]:
    """Returns those of an equation's inputs or outputs that are variables."""
    return {atom for atom in atoms if not isinstance(atom, Literal)}
