"""Several stages as one."""

from collections import Counter

import jax

from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.uplink.contract import Aggregate, Facts, Notes, Sender, ServerRound, Stage, State, Update


def chain(*stages: Stage) -> Stage:
    """One stage that applies `stages` in order, each with a state and a key of its own.

    Raises UserError where two have the same name, since their notes could not be told apart.
    """
    twice = [name for name, count in Counter(stage.name for stage in stages).items() if count > 1]
    if twice:
        raise UserError(f"uplink.stages: {twice[0]} occurs twice; give each stage once")

    def client(update: Update, states: State, sender: Sender) -> tuple[Update, State, Notes]:
        after, notes = [], Notes()
        for number, (stage, state) in enumerate(zip(stages, states)):
            own = sender._replace(key=jax.random.fold_in(sender.key, number))
            update, state, noted = stage.client(update, state, own)
            after.append(state)
            notes |= {f"{stage.name}/{name}": value for name, value in noted.items()}
        return update, tuple(after), notes

    def server(aggregate: Aggregate, states: State, at: ServerRound) -> tuple[Aggregate, State]:
        after = []
        for number, (stage, state) in enumerate(zip(stages, states)):
            own = at._replace(key=jax.random.fold_in(at.key, number))
            aggregate, state = stage.server(aggregate, state, own)
            after.append(state)
        return aggregate, tuple(after)

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
