"""Combines several stages of the uplink into one."""

import functools
from collections import Counter
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import (
    Aggregate,
    Notes,
    PyTree,
    RoundContext,
    Sender,
    SimulationParts,
    Stage,
    State,
    Update,
    init,
)


def chain(*stages: Stage) -> Stage:
    """Returns one stage that applies `stages` in order, each with its own key; states are dicts by stages' names.

    The parts of a chain among them stand in its place. Raises UserError if two have the same name, since their notes
    would have the same name too.
    """
    stages = tuple(part for stage in stages for part in ((stage,) if stage.parts is None else stage.parts))
    check_names(stages)
    return Stage(
        name=" > ".join(stage.name for stage in stages) or "nothing",
        init=lambda sent: {stage.name: stage.init(sent) for stage in stages},
        init_client=lambda sent: {stage.name: stage.init_client(sent) for stage in stages},
        client=partial(at_client, stages),
        server=partial(at_server, stages),
        sensitivity=lambda bound: functools.reduce(lambda bound, stage: stage.sensitivity(bound), stages, bound),
        linear=all(stage.linear for stage in stages),
        wire=lambda sent, nbytes: functools.reduce(lambda nbytes, stage: stage.wire(sent, nbytes), stages, nbytes),
        check_compatible=partial(check_stages, stages),
        parts=stages,
    )


def at_client(stages: Sequence[Stage], update: Update, states: State, sender: Sender) -> tuple[Update, State, Notes]:
    """Returns an update after the client's side of all stages, their new states, and their notes as STAGE/NOTE."""
    new_states, notes = {}, Notes()
    for number, stage in enumerate(stages):
        stage_sender = sender._replace(key=jax.random.fold_in(sender.key, number))
        update, new_states[stage.name], stage_notes = stage.client(update, states[stage.name], stage_sender)
        notes |= {f"{stage.name}/{name}": value for name, value in stage_notes.items()}
    return update, new_states, notes


def at_server(
    stages: Sequence[Stage], aggregate: Aggregate, states: State, at: RoundContext
) -> tuple[Aggregate, State]:
    """Returns an aggregate after the server's side of all stages, and their new states."""
    new_states = {}
    for number, stage in enumerate(stages):
        stage_round = at._replace(key=jax.random.fold_in(at.key, number))
        aggregate, new_states[stage.name] = stage.server(aggregate, states[stage.name], stage_round)
    return aggregate, new_states


def check_stages(stages: Sequence[Stage], parts: SimulationParts) -> None:
    """Raises UserError if a stage changes what it must keep, or does not work in this simulation."""
    for stage in stages:
        check_stage(stage, parts)
        stage.check_compatible(parts)


def check_names(stages: Sequence[Stage]) -> None:
    """Raises UserError if two stages have the same name."""
    repeated = [name for name, count in Counter(stage.name for stage in stages).items() if count > 1]
    if repeated:
        raise UserError(f"uplink.stages: {repeated[0]} occurs twice, perhaps once by --fed.privacy; give it once")


def check_stage(stage: Stage, parts: SimulationParts) -> None:
    """Raises UserError if a stage does not keep the shapes and types of an update and of its states."""
    zero, one, key = jnp.int32(0), jnp.float32(1), jax.random.key(0)
    sent, server = parts.sent, jax.eval_shape(lambda: init(parts.uplink, parts.sent))
    state = jax.eval_shape(lambda: stage.init_client(sent))
    returned = jax.eval_shape(stage.client, sent, state, Sender(zero, zero, key, one, one, server))
    if not isinstance(returned, tuple) or len(returned) != 3:
        raise UserError(f"uplink.stages {stage.name}: client must return an update, a state and a dict of notes")
    check_same(stage, "client", returned, (sent, state, jax.tree.map(lambda _: one, returned[2])))
    aggregate = Aggregate(sent.delta, sent.auxiliary, one, one, one)
    server_state = jax.eval_shape(lambda: stage.init(sent))
    at_server = jax.eval_shape(stage.server, aggregate, server_state, RoundContext(zero, key, one, one))
    check_same(stage, "server", at_server, (aggregate, server_state))
    if (nbytes := stage.wire(sent, trees.nbytes((sent.delta, sent.auxiliary)))) < 0:
        raise UserError(f"uplink.stages {stage.name}: wire gives {nbytes} bytes: must be 0 or more")


def check_same(stage: Stage, side: str, returned: PyTree, wanted: PyTree) -> None:
    """Raises UserError if what a side of a stage returns has other leaves, shapes or types than it must have."""
    found, needed = (
        {name: f"{leaf.dtype} {list(leaf.shape)}" for name, leaf in trees.named(tree).items()}
        for tree in (returned, wanted)
    )
    for name in {**needed, **found}:
        if found.get(name) != needed.get(name):
            raise UserError(
                f"uplink.stages {stage.name}: {side} returns {found.get(name, 'nothing')} as {name}, where "
                f"{needed.get(name, 'nothing')} is wanted: keep shapes and types; a note is a float32 []"
            )
