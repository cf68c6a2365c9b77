"""Experiments that differ in seed, data and numbers alone, trained together as members of one program."""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.clock import Clock
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.contract import DataDescription, Federation
from fedjax_mri.fed.engine import evaluate, members
from fedjax_mri.fed.engine.evaluate import Evaluation
from fedjax_mri.fed.engine.members import GroupMember, RunGroup
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State
from fedjax_mri.run import config as configs
from fedjax_mri.run import loop, results
from fedjax_mri.run.assemble import assemble, describe
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.line import LogEntry, SegmentFigures
from fedjax_mri.run.loop import Advance, Observer, Progress, Training
from fedjax_mri.run.prepare import Say, choose_plan
from fedjax_mri.run.train import divergence_remedy, segment_figures, training_failure

Tested = dict[str, Evaluation]  # test set -> one member's results on it
PER_MEMBER = {"name": "", "seed": 0, "data": None}  # fields in which members always may differ
LABELS = "labels"  # among a member's hyperparameters: its training examples of each class


class Outcome(NamedTuple):
    """What became of one experiment."""

    history: list[LogEntry]
    failure: str = ""  # why it stopped early


class MemberStates(NamedTuple):
    """All members between two segments."""

    round: int
    state: State  # [M, ...]


class MembersTrained(NamedTuple):
    """What a segment of all members amounted to."""

    figures: list[SegmentFigures]  # of each member
    rounds: int
    seconds: float  # of all members together


GroupProgress = Progress[MemberStates, MembersTrained, list[LogEntry]]
GroupObserver = Observer[MemberStates, MembersTrained, list[LogEntry]]


def program_settings(config: Experiment) -> str:
    """Returns the settings that decide a compiled program: experiments may share one where these are equal."""
    shared = configs.to_dict(config) | PER_MEMBER
    return json.dumps({name: value if name == "plan" else _signs(value) for name, value in shared.items()})


def _signs(value: Any) -> Any:
    """Returns settings with the signs of their numbers alone: 0, or a number below, often switches a part off."""
    if isinstance(value, dict):
        return {name: _signs(one) for name, one in value.items()}
    if isinstance(value, tuple) and any(isinstance(one, dict) for one in value):  # sections, whose numbers have names
        return [_signs(one) for one in value]
    return f"a number of sign {np.sign(value):.0f}" if isinstance(value, float) and np.isfinite(value) else value


def data_signature(federation: Federation) -> Any:
    """Returns what decides a compiled program of federations: they may share one where it is equal and not None."""
    tests = {name: (members.data_signature(test.data), test.owner.size) for name, test in federation.tests.items()}
    whole = (members.data_signature(federation.train), federation.classes, tuple(tests.items()))
    return None if None in (whole[0], *(one for one, _ in tests.values())) else whole


def differing_numbers(several: Sequence[Experiment]) -> list[str]:
    """Returns the dotted names of the numbers in which experiments of equal `program_settings` differ."""
    flat = [configs.flat(config) for config in several]
    numbers = (name for name, value in flat[0].items() if isinstance(value, float) and name.split(".")[0] != "data")
    return [name for name in numbers if len({one[name] for one in flat}) > 1]


def train(
    several: Sequence[Experiment],
    federations: Sequence[Federation],
    say: Say,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[list[Outcome], Plan]:
    """Trains each experiment on its federation, all in one program; returns what became of them, and the plan.

    Training ends after the segment in which `stop` returns True; the histories then end there.

    The experiments have equal `program_settings`, the federations equal `data_signature`. An experiment whose training
    loss or evaluation is not finite stops, and the others go on. Raises UserError on bad settings, and TypeError where
    the code must know one of the `differing_numbers` to build its program.
    """
    described, by_rule = [describe(one) for one in federations], several[0].plan.resolve()
    sims = [assemble(c, d, f.train, by_rule) for c, d, f in zip(several, described, federations)]  # or refuses bad ones
    federations = with_checked_examples(several, federations, sims[0])
    sim, plan = choose_plan(several[0], described[0], sims[0], by_rule, say)
    plan = members.resolve_members(plan, trees.count(jax.eval_shape(sim.task.init, jax.random.key(0)).params))
    group = place_members(several, federations, described, plan)
    return train_members(several, group, evaluator(group, federations), sim, say, stop), plan


def with_checked_examples(
    several: Sequence[Experiment], federations: Sequence[Federation], sim: Simulation
) -> list[Federation]:
    """Returns the federations; those that occur several times still do. Raises UserError on unfit examples."""
    checked = dict[int, Federation]()
    for config, one in zip(several, federations):
        if id(one) not in checked:
            checked[id(one)] = check.contents(one, sim.task.reads, type(config.data).__name__)
            check.computed_by_users(one, sim.task.reads, config.data)
    return [checked[id(one)] for one in federations]


def place_members(
    several: Sequence[Experiment], federations: Sequence[Federation], described: Sequence[DataDescription], plan: Plan
) -> RunGroup:
    """Returns the experiments as members on the devices; federations that occur several times are held once."""
    unique = list({id(one): one for one in federations}.values())
    places = [next(i for i, other in enumerate(unique) if other is one) for one in federations]
    names, labels_differ = differing_numbers(several), len({one.labels for one in described}) > 1

    def make(hyperparameters: members.Hyperparameters, sizes: jax.Array) -> Simulation:
        def with_number(config: Experiment, name: str) -> Experiment:
            return configs.with_field(config, name, hyperparameters[name])

        try:
            config = functools.reduce(with_number, names, several[0])
            data = unique[0].train._replace(sizes=sizes, patients=None)  # type: ignore[arg-type]
            labels = tuple(hyperparameters[LABELS]) if labels_differ else described[0].labels  # type: ignore[arg-type]
            return assemble(config, described[0]._replace(labels=labels), data, plan)
        except UserError as error:  # the numbers themselves are good: what is refused is that they are not known yet
            raise TypeError(str(error)) from error

    def member(config: Experiment, place: int, labels: tuple[int, ...]) -> GroupMember:
        flat = configs.flat(config)
        hyperparameters = {name: jnp.float32(flat[name]) for name in names}
        hyperparameters |= {LABELS: jnp.asarray(labels, jnp.int32)} if labels_differ else {}
        return GroupMember(hyperparameters, jax.random.key(config.seed), jnp.int32(place))

    parts = [member(config, place, one.labels) for config, place, one in zip(several, places, described)]
    return members.place_on_devices(make, plan, parts, [one.train for one in unique])


def evaluator(group: RunGroup, federations: Sequence[Federation]) -> Callable[[State], list[Tested]]:
    """Returns a function that gives the results of each member on its test sets for states [M, ...]."""
    unique = {id(one): one for one in federations}.values()
    on_tests = members.evaluator(group, [one.tests for one in unique])
    return lambda state: each_member(on_tests(state), len(federations))


def train_members(
    several: Sequence[Experiment],
    group: RunGroup,
    tested: Callable[[State], list[Tested]],
    sim: Simulation,
    say: Say,
    stop: Callable[[], bool],
) -> list[Outcome]:
    """Trains all members segment by segment, until `stop` returns True; returns what became of each."""
    histories: list[list[LogEntry]] = [[] for _ in several]
    failures = [""] * len(several)  # why a member no longer trains, or an empty string
    clock, start = Clock(), MemberStates(0, members.first_states(group))

    def evaluate_members(now: MemberStates, trained: MembersTrained | None) -> list[LogEntry]:
        figures, found = [None] * len(several) if trained is None else trained.figures, tested(now.state)
        note_failures(failures, several, now.round, map(evaluate.failure, found))
        return [
            LogEntry(now.round, results.metrics_by_test(sim.task, tests), one) for tests, one in zip(found, figures)
        ]

    def remember(progress: GroupProgress) -> bool:
        for history, line, failure in zip(histories, progress.evaluated, failures):
            history += [] if failure else [line]
        return all(failures)

    rounds, every = several[0].rounds, several[0].evaluate_every
    compile_segment = partial(compiled, several, group, start.state, sim, failures, clock)
    observers: list[GroupObserver] = [remember, partial(say_speed, say), lambda _: stop()]
    loop.train(Training(rounds, every, compile_segment, evaluate_members), start, 0, observers, clock)
    return [Outcome(history, failure) for history, failure in zip(histories, failures)]


def compiled(
    several: Sequence[Experiment], group: RunGroup, states: State, sim: Simulation, failures: list[str], clock: Clock
) -> Advance[MemberStates, MembersTrained]:
    """Returns the compiled segment of all members, for `states` of these shapes.

    Members that have failed stay as they are; those whose training fails are noted in `failures`.
    """
    segment = members.build(group, states, min(several[0].evaluate_every, several[0].rounds))

    def advance(now: MemberStates, length: int) -> tuple[MemberStates, MembersTrained]:
        with clock.measure("train"):
            state, work = segment(now.state, np.array([0 if failure else length for failure in failures]))
        each, seconds, round = each_member(work, len(several)), clock.last, now.round + length
        figures = [segment_figures(sim, one, seconds / len(several), 0.0) for one in each]
        note_failures(failures, several, round, map(training_failure, each, figures))
        return MemberStates(round, state), MembersTrained(figures, length, seconds)

    return advance


def each_member(tree: Any, count: int) -> list[Any]:
    """Returns the rows of the leading axis [M] of all leaves, those of the first `count` members."""
    return [jax.tree.map(lambda x: x[number], tree) for number in range(count)]  # noqa: B023


def note_failures(failures: list[str], several: Sequence[Experiment], round: int, found: Iterable[str]) -> None:
    """Writes what was `found` wrong after `round` into `failures`, but for members that have failed before."""
    for place, (config, failure) in enumerate(zip(several, found)):
        if failure and not failures[place]:
            failures[place] = f"round {round}: {failure}; {divergence_remedy(config)}"


def say_speed(say: Say, progress: GroupProgress) -> None:
    """Says after each segment how long a round of all members takes."""
    if progress.trained is not None:
        count, seconds = len(progress.trained.figures), progress.trained.seconds / progress.trained.rounds
        say(f"round {progress.round}/{progress.rounds} of {count} experiments, {seconds:.3g} s a round")
