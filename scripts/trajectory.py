"""A whole run as one pure function, which can be vmapped over seeds, rates and other numbers."""

from collections.abc import Callable
from typing import Any

import jax

from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.rounds import one_round
from fedjax_mri.fed.engine.simulation import Simulation, State, draw_cohort


def trajectory(
    sim: Simulation,
    plan: Plan,
    placed: PlacedData,
    root: jax.Array,
    start: State,
    rounds: int,
    observe: Callable[[State], Any],
    every: int = 1,
) -> Any:
    """Returns `observe`'s results after each `every` rounds, leaves [rounds // every, ...]; root is the run's key."""

    def advance(_: Any, state: State) -> State:
        return one_round(sim, plan, state, root, placed, draw_cohort(sim, root, state.round))[0]

    def segment(state: State, _: None) -> tuple[State, Any]:
        state = jax.lax.fori_loop(0, every, advance, state)
        return state, observe(state)

    return jax.lax.scan(segment, start, None, rounds // every)[1]
