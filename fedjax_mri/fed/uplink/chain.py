"""Combines several stages of the uplink into one."""

from collections import Counter
from collections.abc import Sequence

import jax

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import Aggregate, Facts, Notes, Sender, ServerRound, Stage, State, Update


def chain(*stages: Stage) -> Stage:
    """Returns one stage that applies `stages` in order, each with its own state and key.

    Raises UserError if two have the same name, since their notes would have the same name too.
    """
    check_names(stages)

    def client(update: Update, states: State, sender: Sender) -> tuple[Update, State, Notes]:
        new_states, notes = [], Notes()
        for number, (stage, state) in enumerate(zip(stages, states)):
            stage_sender = sender._replace(key=jax.random.fold_in(sender.key, number))
            update, state, stage_notes = stage.client(update, state, stage_sender)
            new_states.append(state)
            notes |= {f"{stage.name}/{name}": value for name, value in stage_notes.items()}
        return update, tuple(new_states), notes

    def server(aggregate: Aggregate, states: State, at: ServerRound) -> tuple[Aggregate, State]:
        new_states = []
        for number, (stage, state) in enumerate(zip(stages, states)):
            stage_round = at._replace(key=jax.random.fold_in(at.key, number))
            aggregate, state = stage.server(aggregate, state, stage_round)
            new_states.append(state)
        return aggregate, tuple(new_states)

    def sensitivity(bound: float) -> float:
        for stage in stages:
            bound = stage.sensitivity(bound)
        return bound

    def wire(sent: Update, nbytes: int) -> int:
        for stage in stages:
            nbytes = stage.wire(sent, nbytes)
        return nbytes

    def admits(facts: Facts) -> None:
        for stage in stages:
            stage.admits(facts)

    return Stage(
        name=" > ".join(stage.name for stage in stages) or "nothing",
        init=lambda sent: tuple(stage.init(sent) for stage in stages),
        init_client=lambda sent: tuple(stage.init_client(sent) for stage in stages),
        client=client,
        server=server,
        sensitivity=sensitivity,
        linear=all(stage.linear for stage in stages),
        wire=wire,
        admits=admits,
    )


def check_names(stages: Sequence[Stage]) -> None:
    """Raises UserError if two stages have the same name."""
    repeated = [name for name, count in Counter(stage.name for stage in stages).items() if count > 1]
    if repeated:
        raise UserError(f"uplink.stages: {repeated[0]} occurs twice; give each stage once")
