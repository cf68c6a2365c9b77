"""Experiments that differ in seed, data and numbers alone, trained together as members of one program."""

import functools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.clock import Clock
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import DataDescription, Federation
from fedjax_mri.fed.engine import auto, members
from fedjax_mri.fed.engine.evaluate import Judged
from fedjax_mri.fed.engine.lanes import RoundStats
from fedjax_mri.fed.engine.members import Group, Member
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment, results, runfolder
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.experiment import Say

Line = dict[str, float]  # of metrics.jsonl
OWN = {"name": "", "seed": 0, "data": None}  # what each member has for itself


class Outcome(NamedTuple):
    """What became of one experiment."""

    history: list[Line]
    failure: str = ""  # why it stopped early


def likeness(config: Experiment) -> str:
    """Equal where experiments may share a program, as far as their settings tell."""
    asks = getattr(config.task, "class_weights", ()) == "balanced"  # numbers of its own from its own data
    plain = configs.to_dict(config) | ({"name": ""} if asks else OWN)
    return json.dumps({name: value if name == "plan" else _blurred(value) for name, value in plain.items()})


def _blurred(value: Any) -> Any:
    """Settings without their numbers, but for their signs: a part is often switched off by 0, or by a number below."""
    if isinstance(value, dict):
        return {name: _blurred(one) for name, one in value.items()}
    return f"a number of sign {np.sign(value):.0f}" if isinstance(value, float) and np.isfinite(value) else value


def shape(federation: Federation) -> Any:
    """Equal where federations may share a program, if it is not None."""
    tests = {name: (members.shape(test.data), test.owner.size) for name, test in federation.tests.items()}
    whole = (members.shape(federation.train), federation.classes, tuple(tests.items()))
    return None if None in (whole[0], *(one for one, _ in tests.values())) else whole


def numbers(several: Sequence[Experiment]) -> list[str]:
    """Paths of the numbers in which experiments of one likeness differ."""
    flat = [configs.flat(config) for config in several]
    mine = (name for name, value in flat[0].items() if isinstance(value, float) and name.split(".")[0] != "data")
    return [name for name in mine if len({one[name] for one in flat}) > 1]


def train(several: Sequence[Experiment], federations: Sequence[Federation], say: Say) -> tuple[list[Outcome], Plan]:
    """Each experiment of one likeness on its federation, all of one shape; and the plan it was done by.

    One whose loss is no longer finite stops, and the others go on. Raises UserError on bad settings, and TypeError
    where the code must know one of `numbers` to build its program.
    """
    described = experiment.describe(federations[0])
    plan = chosen(several[0], described, federations[0], say)
    sims = [experiment.assemble(c, described, f.train, plan) for c, f in zip(several, federations)]  # refuses bad ones
    plan = members.settled(plan, parameters(sims[0]))
    group = gathered(several, federations, described, plan)
    return trained(several, group, judging(group, sims[0], federations), sims[0], say), plan


def chosen(config: Experiment, described: DataDescription, federation: Federation, say: Say) -> Plan:
    """The plan of an experiment with nothing left open."""
    assembled = partial(experiment.assemble, config, described, federation.train)
    return auto.choose(config.plan, assembled, runfolder.cache() / "plans", say)


def parameters(sim: Simulation) -> int:
    """How many its model has."""
    return trees.count(jax.eval_shape(sim.task.init, jax.random.key(0)).params)


def gathered(
    several: Sequence[Experiment], federations: Sequence[Federation], described: DataDescription, plan: Plan
) -> Group:
    """The experiments as members; federations that occur several times are held once."""
    unique = list({id(one): one for one in federations}.values())
    places = [next(i for i, other in enumerate(unique) if other is one) for one in federations]
    names = numbers(several)

    def make(given: members.Numbers, sizes: jax.Array) -> Simulation:
        try:
            config = functools.reduce(lambda config, name: configs.put(config, name, given[name]), names, several[0])
            data = unique[0].train._replace(sizes=sizes)  # type: ignore[arg-type]
            return experiment.assemble(config, described, data, plan)
        except UserError as error:  # the numbers themselves are good: what is refused is that they are not known yet
            raise TypeError(str(error)) from error

    def member(config: Experiment, place: int) -> Member:
        flat = configs.flat(config)
        given = {name: jnp.float32(flat[name]) for name in names}
        return Member(given, jax.random.key(config.seed), jnp.int32(place))

    parts = [member(config, place) for config, place in zip(several, places)]
    return members.group(make, plan, parts, [one.train for one in unique])


def judging(group: Group, sim: Simulation, federations: Sequence[Federation]) -> Any:
    """States -> a line of figures for each member."""
    judge = members.judge(group, [one.tests for one in {id(one): one for one in federations}.values()])

    def figures(state: Any) -> list[Line]:
        judged = judge(state)
        return [results.figures(sim.task, _member(judged, number)) for number in range(len(federations))]

    return figures


def _member(judged: Mapping[str, Any], number: int) -> dict[str, Judged]:
    return {name: Judged(jax.tree.map(lambda x: x[number], one), {}) for name, one in judged.items()}


def trained(several: Sequence[Experiment], group: Group, figures: Any, sim: Simulation, say: Say) -> list[Outcome]:
    """All members, segment by segment."""
    clock, done, rounds, every = Clock(), 0, several[0].rounds, several[0].evaluate_every
    state = members.first(group)
    with ThreadPoolExecutor(1) as meanwhile:
        first = meanwhile.submit(figures, state)
        segment = members.build(group, state, min(every, rounds))
    outcomes = [Outcome([{"round": 0, **line}]) for line in first.result()]
    while done < rounds and any(not one.failure for one in outcomes):
        length = min(every, rounds - done)
        with clock.measure("train"):
            state, work = segment(state, np.array([0 if one.failure else length for one in outcomes]))
        done += length
        seconds = clock.last / len(several)  # a member's share
        lines = [{"round": done, **line, **more} for line, more in zip(training(sim, work, seconds), figures(state))]
        outcomes = [extended(*one) for one in zip(outcomes, lines, several)]
        say(f"round {done}/{rounds} of {len(several)} experiments, {clock.last / length:.3g} s a round")
    return outcomes


def training(sim: Simulation, work: RoundStats, seconds: float) -> list[Line]:
    """Figures of each member's segment; `work` has leading axes [M, rounds]."""
    count = len(work.steps)
    return [
        experiment.training_figures(sim, jax.tree.map(lambda x: x[number], work), seconds, 0.0)  # noqa: B023
        for number in range(count)
    ]


def extended(outcome: Outcome, line: Line, config: Experiment) -> Outcome:
    """The outcome one line on, unless it has failed or does so now."""
    if outcome.failure:
        return outcome
    try:
        experiment.refuse_divergence(line, config)
    except UserError as error:
        return outcome._replace(failure=str(error).partition("; the last checkpoint")[0])
    return Outcome([*outcome.history, line])
