"""Rounds between two evaluations: one compiled program, or one a round where the host has a part in it."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import programs, trees
from fedjax_mri.core.programs import Program, ProgramCache, Shardings
from fedjax_mri.fed.engine import placement
from fedjax_mri.fed.engine.lanes import RoundStats
from fedjax_mri.fed.engine.placement import Placed
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.rounds import cohort_round, one_round
from fedjax_mri.fed.engine.simulation import Simulation, State, draw_cohort, init_state
from fedjax_mri.fed.sampling import Cohort

# (state, rounds) -> (the state that many rounds on, their work [rounds, ...], seconds that rounds waited for examples);
# the state handed in is consumed.
Segment = Callable[[State, int], tuple[State, RoundStats, float]]
Advance = Callable[[State, Placed, Cohort], tuple[State, RoundStats]]  # a round of which the host knows the cohort


def build(sim: Simulation, plan: Plan, root: jax.Array, most: int, cache: ProgramCache | None = None) -> Segment:
    """The compiled rounds of a run whose randomness starts from key `root`, up to `most` in a segment.

    They are one program, unless the host has a part in each round: it sends the examples, or holds the clients' state.
    Traced programs are kept on `cache`. `check` the simulation first. Raises UserError where the program is too large.
    """
    if plan.loop == "round" or plan.data == "streamed" or plan.clients == "host":
        return build_round_by_round(sim, plan, root, cache)
    return build_one_program(sim, plan, root, most, cache)


def build_one_program(sim: Simulation, plan: Plan, root: jax.Array, most: int, cache: ProgramCache | None) -> Segment:
    """All rounds of a segment as one program."""
    placed = placement.place_examples(sim.data, plan)
    state = jax.eval_shape(partial(init_state, sim), root)
    program = compile_rounds(plan, partial(run_rounds, sim, plan, most), state, root, placed, np.int32(0), cache=cache)

    def segment(state: State, rounds: int) -> tuple[State, RoundStats, float]:
        state, work = jax.block_until_ready(program(state, root, placed, np.int32(rounds)))
        return state, jax.tree.map(lambda x: np.asarray(x)[:rounds], work), 0.0

    return segment


def run_rounds(
    sim: Simulation, plan: Plan, most: int, state: State, root: jax.Array, placed: Placed, rounds: jax.Array
) -> tuple[State, RoundStats]:
    """The state `rounds` int32 [] on, and their work [most, ...], of which the rest is zeros."""

    @partial(jax.jit, inline=True)  # traced once, for its shapes and for the loop
    def one(state: State, root: jax.Array, placed: Placed) -> tuple[State, RoundStats]:
        return one_round(sim, plan, state, root, placed, draw_cohort(sim, root, state.round))

    shapes = jax.eval_shape(one, state, root, placed)[1]
    log = trees.zeros_like(jax.tree.map(lambda x: jax.ShapeDtypeStruct((most, *x.shape), x.dtype), shapes))

    def body(number: jax.Array, carry: tuple[State, RoundStats]) -> tuple[State, RoundStats]:
        state, work = one(carry[0], root, placed)
        return state, trees.put(carry[1], number, work)

    return jax.lax.fori_loop(0, rounds, body, (state, log))


def build_round_by_round(sim: Simulation, plan: Plan, root: jax.Array, cache: ProgramCache | None) -> Segment:
    """Each round as one program, given its cohort and examples by the host.

    A round begins when the one before has ended: that costs a millisecond, keeps no more than two rounds' examples on
    a device, and lets the wait for examples be measured.
    """
    streams = plan.data == "streamed"
    cohort = jax.tree.map(np.asarray, draw_cohort(sim, root, jnp.int32(0)))
    placed = (
        placement.streamed_shapes(sim.data, plan, cohort.client.size)
        if streams
        else placement.place_examples(sim.data, plan)
    )
    advance = (advance_cohort_rows if plan.clients == "host" else advance_all_clients)(
        sim, plan, root, placed, cohort, cache
    )
    ask = cohort_feed(sim, plan, root, placed)

    def segment(state: State, rounds: int) -> tuple[State, RoundStats, float]:
        works, waited = [], 0.0
        for number in range(int(state.round), int(state.round) + rounds):
            start = time.perf_counter()
            cohort, placed = ask(number)
            waited += time.perf_counter() - start
            state, work = jax.block_until_ready(advance(state, placed, cohort))
            works.append(work)
        return state, jax.tree.map(lambda *each: np.stack(each), *works), waited

    return segment


def advance_all_clients(
    sim: Simulation, plan: Plan, root: jax.Array, placed: Placed, cohort: Cohort, cache: ProgramCache | None
) -> Advance:
    """A round of which all clients' state is on the devices."""
    state = jax.eval_shape(partial(init_state, sim), root)
    program = compile_rounds(plan, partial(one_round, sim, plan), state, root, placed, cohort, cache=cache)
    return lambda state, placed, cohort: program(state, root, placed, cohort)


def advance_cohort_rows(
    sim: Simulation, plan: Plan, root: jax.Array, placed: Placed, cohort: Cohort, cache: ProgramCache | None
) -> Advance:
    """A round of which the cohort's state comes from arrays on the host, and goes back into them."""
    state = jax.eval_shape(partial(init_state, sim), root)
    kept = jax.tree.map(lambda x: jax.ShapeDtypeStruct((cohort.client.size, *x.shape[1:]), x.dtype), state.clients)
    most = state._replace(clients=())
    program = compile_rounds(plan, partial(cohort_round, sim, plan), most, root, placed, cohort, kept, cache=cache)

    def advance(state: State, placed: Placed, cohort: Cohort) -> tuple[State, RoundStats]:
        rows, clients = trees.take(state.clients, cohort.client), state.clients
        state, trained, rows, work = program(state._replace(clients=()), root, placed, cohort, rows)
        trees.put_in_place(clients, np.asarray(trained), rows)
        return state._replace(clients=clients), work

    return advance


def cohort_feed(sim: Simulation, plan: Plan, root: jax.Array, placed: Placed) -> Callable[[int], tuple[Cohort, Placed]]:
    """Round -> its cohort, as NumPy arrays, and the examples; streamed, the next round's are on their way meanwhile."""
    draw, key = jax.jit(partial(draw_cohort, sim)), jax.device_put(root, placement.host_device())

    def cohort(number: int) -> Any:
        return jax.tree.map(np.asarray, draw(key, np.int32(number)))

    if plan.data != "streamed":
        return lambda number: (cohort(number), placed)

    room = placement.store_shape(sim.data, plan, cohort(0).client.size)

    def sent(number: int) -> tuple[Cohort, Placed]:
        chosen = cohort(number)
        sizes = np.where(chosen.present, sim.data.sizes[chosen.client], 0).astype(np.int32)
        return chosen, jax.block_until_ready(placement.divide_examples(sim.data, plan, chosen.client, sizes, room))

    return placement.prefetch(sent)


def compile_rounds(
    plan: Plan,
    program: Program,
    state: State,
    root: jax.Array,
    placed: Placed,
    *rest: Any,
    cache: ProgramCache | None = None,
) -> Any:
    """`program(state, root, placed, *rest)` for arguments of these shapes; all results are on every device."""
    everywhere = plan.everywhere()
    where = jax.tree.map(lambda spec: jax.sharding.NamedSharding(plan.mesh(), spec), placement.partition_specs(plan))
    form = Shardings((everywhere, everywhere, where, *(everywhere for _ in rest)), everywhere, consumed=(0,))
    found = programs.compile_program(program, form, (state, root, placed, *rest), cache, "segment")
    plan.refuse_excess(found.memory_analysis())
    return found
