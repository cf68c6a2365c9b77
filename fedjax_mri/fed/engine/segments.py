"""Runs the rounds between two evaluations, as one compiled program or as one program for each round."""

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
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.rounds import cohort_round, one_round
from fedjax_mri.fed.engine.simulation import Simulation, State, draw_cohort, state_shapes
from fedjax_mri.fed.sampling import Cohort

# (state, rounds) -> (the state after that many rounds, their statistics [rounds, ...], seconds that they waited for
# examples). The memory of the argument `state` is reused, so that it must not be used again.
Segment = Callable[[State, int], tuple[State, RoundStats, float]]
Advance = Callable[[State, PlacedData, Cohort], tuple[State, RoundStats]]  # one round, whose cohort the host knows


def build(sim: Simulation, plan: Plan, root: jax.Array, max_rounds: int, cache: ProgramCache | None = None) -> Segment:
    """Returns the compiled segment of a run, of up to `max_rounds` rounds, with randomness from the key `root`.

    All rounds are one program, unless the plan asks for one each or the host takes part in each round: it sends the
    examples or holds the clients' state. Traced programs are kept in `cache`. Call `check_simulation` first. Raises
    UserError if the program does not fit into memory.
    """
    if is_round_by_round(plan):
        return build_round_by_round(sim, plan, root, cache)
    return build_one_program(sim, plan, root, max_rounds, cache)


def is_round_by_round(plan: Plan) -> bool:
    """Returns whether the host calls each round, as it takes part in it, or the plan asks for it."""
    return plan.loop == "round" or plan.data == "streamed" or plan.clients == "host"


def compile_for_shapes(sim: Simulation, plan: Plan, max_rounds: int) -> Any:
    """Returns the compiled program of a segment, or of a round if the host calls each, without placing any examples.

    Raises UserError if the program does not fit into memory.
    """
    root = jax.eval_shape(jax.random.key, 0)
    cohort = jax.eval_shape(partial(draw_cohort, sim), root, jnp.int32(0))
    placed = placement.placed_shapes(sim.data, plan, cohort.client.size)
    if is_round_by_round(plan):
        return compile_one_round(sim, plan, root, placed, cohort)
    return compile_segment(sim, plan, root, placed, max_rounds)


def build_one_program(
    sim: Simulation, plan: Plan, root: jax.Array, max_rounds: int, cache: ProgramCache | None
) -> Segment:
    """Returns a segment whose rounds are one compiled program."""
    placed = placement.place_examples(sim.data, plan)
    program = compile_segment(sim, plan, root, placed, max_rounds, cache)

    def segment(state: State, rounds: int) -> tuple[State, RoundStats, float]:
        state, work = jax.block_until_ready(program(state, root, placed, np.int32(rounds)))
        return state, jax.tree.map(lambda x: np.asarray(x)[:rounds], work), 0.0

    return segment


def compile_segment(
    sim: Simulation,
    plan: Plan,
    root: jax.Array,
    placed: PlacedData,
    max_rounds: int,
    cache: ProgramCache | None = None,
) -> Any:
    """Returns the compiled program of up to `max_rounds` rounds; `placed` may be shapes.

    Raises UserError if it does not fit into memory.
    """
    program = partial(run_rounds, sim, plan, max_rounds)
    return compile_rounds(plan, program, state_shapes(sim), root, placed, np.int32(0), cache=cache)


def run_rounds(
    sim: Simulation, plan: Plan, max_rounds: int, state: State, root: jax.Array, placed: PlacedData, rounds: jax.Array
) -> tuple[State, RoundStats]:
    """Returns the state after `rounds` int32 [] rounds, and their statistics [max_rounds, ...], padded with zeros."""

    @partial(jax.jit, inline=True)  # traced once, for its shapes and for the loop
    def next_round(state: State, root: jax.Array, placed: PlacedData) -> tuple[State, RoundStats]:
        return one_round(sim, plan, state, root, placed, draw_cohort(sim, root, state.round))

    shapes = jax.eval_shape(next_round, state, root, placed)[1]
    log = trees.zeros_like(jax.tree.map(lambda x: jax.ShapeDtypeStruct((max_rounds, *x.shape), x.dtype), shapes))

    def body(number: jax.Array, carry: tuple[State, RoundStats]) -> tuple[State, RoundStats]:
        state, work = next_round(carry[0], root, placed)
        return state, trees.put(carry[1], number, work)

    with jax.named_scope("rounds"):  # by this name `compile/kernels.py` knows the loop in the compiled program
        return jax.lax.fori_loop(0, rounds, body, (state, log))


def build_round_by_round(sim: Simulation, plan: Plan, root: jax.Array, cache: ProgramCache | None) -> Segment:
    """Returns a segment in which each round is one call of a compiled program; the host passes cohort and examples.

    A round begins when the one before has ended. That costs a millisecond, but keeps at most two rounds' examples on a
    device, and the time spent waiting for examples can be measured.
    """
    cohort = jax.tree.map(np.asarray, draw_cohort(sim, root, jnp.int32(0)))
    placed = (
        placement.placed_shapes(sim.data, plan, cohort.client.size)
        if plan.data == "streamed"
        else placement.place_examples(sim.data, plan)
    )
    program = compile_one_round(sim, plan, root, placed, cohort, cache)
    advance = advance_rows(program, root) if plan.clients == "host" else advance_all(program, root)
    next_inputs = cohort_feed(sim, plan, root, placed)

    def segment(state: State, rounds: int) -> tuple[State, RoundStats, float]:
        works, waited = [], 0.0
        for number in range(int(state.round), int(state.round) + rounds):
            start = time.perf_counter()
            cohort, placed = next_inputs(number)
            waited += time.perf_counter() - start
            state, work = jax.block_until_ready(advance(state, placed, cohort))
            works.append(work)
        return state, jax.tree.map(lambda *each: np.stack(each), *works), waited

    return segment


def compile_one_round(
    sim: Simulation, plan: Plan, root: jax.Array, placed: PlacedData, cohort: Cohort, cache: ProgramCache | None = None
) -> Any:
    """Returns the compiled program of one round; `placed` and `cohort` may be shapes.

    If the state of the clients is held on the host, it takes and gives the rows of the cohort.
    """
    state = state_shapes(sim)
    if plan.clients == "device":
        return compile_rounds(plan, partial(one_round, sim, plan), state, root, placed, cohort, cache=cache)
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((cohort.client.size, *x.shape[1:]), x.dtype), state.clients)
    server = state._replace(clients=())
    return compile_rounds(plan, partial(cohort_round, sim, plan), server, root, placed, cohort, rows, cache=cache)


def advance_all(program: Program, root: jax.Array) -> Advance:
    """Returns a round for client state that is held on the devices."""
    return lambda state, placed, cohort: program(state, root, placed, cohort)


def advance_rows(program: Program, root: jax.Array) -> Advance:
    """Returns a round for client state held on the host: the cohort's rows are sent and written back."""

    def advance(state: State, placed: PlacedData, cohort: Cohort) -> tuple[State, RoundStats]:
        rows, clients = trees.take(state.clients, cohort.client), state.clients
        state, trained, rows, work = program(state._replace(clients=()), root, placed, cohort, rows)
        trees.put_in_place(clients, np.asarray(trained), rows)
        return state._replace(clients=clients), work

    return advance


def cohort_feed(
    sim: Simulation, plan: Plan, root: jax.Array, placed: PlacedData
) -> Callable[[int], tuple[Cohort, PlacedData]]:
    """Returns a function from a round number to its cohort, as NumPy arrays, and the placed examples.

    Streamed examples of the next round are sent while the current round runs.
    """
    draw, key = jax.jit(partial(draw_cohort, sim)), jax.device_put(root, placement.host_device())

    def cohort(number: int) -> Any:  # a Cohort of NumPy arrays
        return jax.tree.map(np.asarray, draw(key, np.int32(number)))

    if plan.data != "streamed":
        return lambda number: (cohort(number), placed)

    shape = placement.store_shape(sim.data, plan, cohort(0).client.size)

    def send(number: int) -> tuple[Cohort, PlacedData]:
        drawn = cohort(number)
        sizes = np.where(drawn.present, sim.data.sizes[drawn.client], 0).astype(np.int32)
        return drawn, jax.block_until_ready(placement.divide_examples(sim.data, plan, drawn.client, sizes, shape))

    return placement.prefetch(send)


def compile_rounds(
    plan: Plan,
    program: Program,
    state: State,
    root: jax.Array,
    placed: PlacedData,
    *rest: Any,
    cache: ProgramCache | None = None,
) -> Any:
    """Returns `program(state, root, placed, *rest)` compiled for these shapes, with all results on every device.

    Raises UserError if the program does not fit into memory.
    """
    replicated = plan.replicated_sharding()
    data_shardings = jax.tree.map(
        lambda spec: jax.sharding.NamedSharding(plan.mesh(), spec), placement.partition_specs(plan)
    )
    shardings = Shardings(
        (replicated, replicated, data_shardings, *(replicated for _ in rest)), replicated, donated=(0,)
    )
    compiled = programs.compile_program(program, shardings, (state, root, placed, *rest), cache, "segment")
    plan.refuse_excess(compiled.memory_analysis())
    return compiled
