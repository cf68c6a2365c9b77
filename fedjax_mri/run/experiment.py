"""An experiment from config to results: build, then segment by segment train, judge, log and save."""

import functools
import hashlib
import math
import pathlib
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import disk, trees
from fedjax_mri.core.clock import Clock
from fedjax_mri.core.errors import UserError
from fedjax_mri.core.programs import Shelf
from fedjax_mri.data.contract import ClientData, DataDescription, Federation
from fedjax_mri.data.resident import specimen
from fedjax_mri.fed.after import ensemble, finetune
from fedjax_mri.fed.algorithm import Algorithm, traffic
from fedjax_mri.fed.client.local import Local, step_counts
from fedjax_mri.fed.engine import auto, evaluate, segments
from fedjax_mri.fed.engine.lanes import RoundStats
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, check_simulation, init_state, initial_state, place_state
from fedjax_mri.fed.sampling import Population
from fedjax_mri.fed.traffic import Traffic
from fedjax_mri.fed.uplink.contract import Uplink
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.run import config as configs
from fedjax_mri.run import fingerprint, initial, pictures, processes, results, runfolder
from fedjax_mri.run.checkpoint import Checkpoints, existing
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.early import enough, is_best
from fedjax_mri.run.stopping import Stop
from fedjax_mri.tasks.classify import Classify, balance
from fedjax_mri.tasks.task import Task

Say = Callable[[str], None]


class Progress(NamedTuple):
    """A run between two segments, for whoever watches it."""

    round: int
    rounds: int
    figures: Mapping[str, float]
    headline: str  # of the figures of each test set, the first to look at


class Prepared(NamedTuple):
    """All that a run needs but its state."""

    config: Experiment
    plan: Plan
    federation: Federation
    sim: Simulation
    checkpoints: Checkpoints
    log: runfolder.Log
    clock: Clock
    shelf: Shelf | None  # of its traced programs; None where these cannot be told from another run's


def run(
    config: Experiment,
    out: pathlib.Path,
    resume_from: pathlib.Path | None = None,
    say: Say = print,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> signal.Signals | None:
    """Trains `config` in folder `out`, or goes on where it stopped. Gives the signal that stopped it early, if any.

    Raises UserError on a bad config, data or checkpoint, and when the loss is no longer finite.
    """
    with Stop(say) as stop:
        this, state = prepare(config, out, resume_from, say)
        state, judged, shown = train(this, state, stop, watch)
    this.log.close()
    if processes.main():
        results.save(out, this.federation, judged, shown, this.clock.seconds)
    if int(state.round) >= config.rounds or stop.asked is None:
        return None
    say(f"{stop.asked.name}: stopped after round {int(state.round)}, saved; the same command goes on from there")
    return stop.asked


def prepare(
    config: Experiment, out: pathlib.Path, resume_from: pathlib.Path | None, say: Say
) -> tuple[Prepared, State]:
    """Settings checked, the folder claimed, data built, the first state found."""
    agree(config)
    if config.early.patience and concludes(config):
        raise UserError(f"early.patience={config.early.patience}: what follows the last round needs all rounds; give 0")
    clock, source = Clock(), config.data
    config.local.build(config.rounds)  # bad settings are refused before any data is read
    config.plan.resolve()
    claim(out, config)
    with clock.measure("prepare"):
        federation = processes.together(lambda: source.build(config.seed))
        built = seen(federation)
        processes.same({"the data": built}, "give all processes the same files")
        described = describe(federation)
    with clock.measure("plan"):
        assembled = partial(assemble, config, described, federation.train)
        plan = auto.choose(config.plan, assembled, runfolder.cache() / "plans", say)
    with clock.measure("prepare"):
        sim = assembled(plan)
        check_simulation(sim, plan)  # what cannot fit is refused before anything large is made
        checkpoints = Checkpoints(out, config.keep)
        state = begin(sim, config, plan, checkpoints, resume_from, say)
    processes.same({"the newest checkpoint": int(state.round)}, "give an --out on a disk that all share")
    for note in initial.notes(config.init_from, getattr(config.task, "network", None), described.classes, sim.task):
        say(note)
    for warning in federation.warnings:
        say(f"warning: {warning}")
    if processes.main():
        disk.write_json(out / "run.json", runfolder.facts(config, plan, federation, described, sim.task.headline))
    log = runfolder.Log(out, int(state.round))
    name = fingerprint.of_run(config, plan, built, sim, federation.tests)
    shelf = None if name is None else Shelf(runfolder.cache() / "programs", name, say)
    return Prepared(config, plan, federation, sim, checkpoints, log, clock, shelf), state


def agree(config: Experiment) -> None:
    """Raises UserError, in each process, when one has another config, other packages or other devices."""
    here = {"number of devices": jax.local_device_count()}
    processes.same({**configs.flat(config), **runfolder.versions(), **here}, "start all processes alike")


def claim(out: pathlib.Path, config: Experiment) -> None:
    """The folder becomes this run's: process 0 makes it, then the others must find it."""
    processes.together(lambda: runfolder.claim(out, config))
    processes.together(lambda: runfolder.found(out))


def seen(federation: Federation) -> str:
    """Names a federation by the sizes and labels of its clients and tests."""
    tests = {name: test.data.sizes.tolist() for name, test in federation.tests.items()}
    whole = (federation.train.sizes.tolist(), federation.labels.tolist(), federation.classes, tests)
    return f"{federation.train.sizes.sum()} examples, {hashlib.sha256(repr(whole).encode()).hexdigest()[:12]}"


def train(
    this: Prepared, state: State, stop: Stop, watch: Callable[[Progress], None]
) -> tuple[State, dict[str, evaluate.Judged], dict[str, np.ndarray]]:
    """Segments until the rounds are done or `stop` says so; gives what was judged last, and a few examples to show."""
    judge = evaluate.build(this.sim.task, this.plan, this.federation.tests, this.shelf)
    show = showing(this)
    with ThreadPoolExecutor(1) as meanwhile:
        compiling = meanwhile.submit(compiled, this, state)
        judged = judge(state)
        segment = compiling.result()
    if not this.log.history:
        this.log.write({"round": int(state.round), **results.figures(this.sim.task, judged)})
    early, log = this.config.early, this.log
    while int(state.round) < this.config.rounds and not (enough(early, log.history) or stop.agreed()):
        state, line = segment(state)
        refuse_divergence(line, this.config)
        with this.clock.measure("evaluate"):
            state, further = conclude(this, state) if int(state.round) >= this.config.rounds else (state, {})
            judged = judge(state)
        line |= results.figures(this.sim.task, {**judged, **further})
        this.log.write(line)  # before the checkpoint: a line too many is cut off on resuming, a lost one is lost
        with this.clock.measure("checkpoint"):
            if early.figure and is_best(early, log.history):
                Checkpoints(this.checkpoints.folder.parent / "best", 1).save(int(state.round), state)
            this.checkpoints.save(int(state.round), state)
        if this.config.pictures and this.sim.task.shown is not None:
            drawn = show(state)  # in every process
            if processes.main():
                folder = this.checkpoints.folder.parent / "pictures"
                pictures.save(folder, int(state.round), drawn, this.federation.synthetic)
        watch(Progress(int(state.round), this.config.rounds, line, this.sim.task.headline[0]))
    return state, judged, show(state)


def showing(this: Prepared) -> Callable[[State], dict[str, np.ndarray]]:
    """State -> fields [s, ...] of a few examples of the first test set, as the task shows them."""

    @functools.cache  # test sets go to the devices once more: not before there is something to show
    def show() -> Callable[[State], dict[str, evaluate.Judged]]:
        first = evaluate.few(next(iter(this.federation.tests.values())))
        return evaluate.build(evaluate.showing(this.sim.task), this.plan, {"": first}, this.shelf, "show")

    return lambda state: show()(state)[""].kept


def conclude(this: Prepared, state: State) -> tuple[State, dict[str, evaluate.Judged]]:
    """After the last round: the ensemble judged and distilled into the server's model, that fine-tuned and judged."""
    config, sim, plan, tests = this.config, this.sim, this.plan, this.federation.tests
    root, further = jax.random.key(config.seed), dict[str, evaluate.Judged]()
    if sim.algorithm.member is not None and sim.task.tally is not None:
        further |= ensemble.judge(sim, plan, tests, state)
    if config.distil.epochs:
        images = config.distil.source.build(config.seed).train
        state = ensemble.distilled(sim, plan, config.distil, images, state, root)
    if config.finetune.epochs:
        further |= finetune.judge(sim, plan, tests, config.finetune.epochs, state, root)
    return state, further


def concludes(config: Experiment) -> bool:
    """Whether there is something to do after the last round. Raises UserError on a bad algorithm."""
    return bool(config.finetune.epochs or config.distil.epochs) or config.algorithm.build().member is not None


def compiled(this: Prepared, state: State) -> Callable[[State], tuple[State, dict[str, float]]]:
    """The segment from one state to the next evaluation's, compiled now so that the time it takes is known."""
    root, every = jax.random.key(this.config.seed), this.config.evaluate_every
    if int(state.round) >= this.config.rounds:
        return lambda state: (state, {})
    with this.clock.measure("compile"):
        rounds = segments.build(this.sim, this.plan, root, every, this.shelf)

    def segment(state: State) -> tuple[State, dict[str, float]]:
        done = int(state.round)
        length = min(every - done % every, this.config.rounds - done)
        with this.clock.measure("train"):
            state, work, waited = rounds(state, length)
        return state, {"round": int(state.round), **training_figures(this.sim, work, this.clock.last, waited)}

    return segment


def training_figures(sim: Simulation, work: RoundStats, seconds: float, waited: float) -> dict[str, float]:
    """What a segment amounted to, and how fast; `work` has a leading axis of rounds, for data it `waited` seconds."""
    skipped = float(np.sum(np.asarray(work.clients) == 0))
    work = jax.tree.map(lambda x: np.asarray(x).sum(0), work)
    trained = sim.task.summary(work.metrics) if work.clients else {}  # nobody may have come
    return {
        **{f"train/{name}": float(value) for name, value in trained.items()},
        "seconds": seconds,
        "clients_per_second": float(work.clients) / seconds,
        "images_per_second": float(work.examples) / seconds,
        "useful_share": float(work.steps) / max(float(work.slots), 1.0),
        "waited_share": waited / seconds,
        **{f"simulated/{name}": float(value) for name, value in work.spent._asdict().items()},
        "simulated/skipped": skipped,
    }


def refuse_divergence(line: Mapping[str, float], config: Experiment) -> None:
    """Raises UserError when training has left the finite numbers; the last checkpoint is from before."""
    if not all(math.isfinite(value) for name, value in line.items() if name.startswith("train/")):
        raise UserError(
            f"round {line['round']}: the training loss is no longer finite; lower local.learning_rate "
            f"(now {config.local.learning_rate}); the last checkpoint is from before"
        )


def assemble(config: Experiment, described: DataDescription, data: ClientData, plan: Plan) -> Simulation:
    """The simulation that a config describes."""
    assert plan.conv != "auto", "resolve the plan first"
    compute, algorithm = Compute(plan.conv, plan.precision, plan.remat), config.algorithm.build()
    settings = balanced(config.task, described)
    drawn = settings.build(described.image, len(described.classes), compute)
    network = getattr(settings, "network", None)
    task = algorithm.task(initial.begun(config.init_from, network, described.classes, drawn))
    if config.distil.epochs and (algorithm.member is None or task.tally is None):
        raise UserError(
            f"distil.epochs={config.distil.epochs}: there is no ensemble; choose --fed.algorithm oneshot and a task "
            "that can judge predictions, as classification can"
        )
    local = config.local.build(config.rounds)
    uplink = config.uplink.build()
    there = population(config, task, algorithm, uplink, local, data)
    return Simulation(
        task=task,
        algorithm=algorithm,
        uplink=uplink,
        sampler=config.sampling.build(there),
        local=local,
        data=data,
        conditions=config.conditions.build(there),
    )


def balanced(settings: Any, described: DataDescription) -> Any:
    """A task's settings, with weights of classes where it asks for "balanced"; ones where labels are not known."""
    labels = described.labels or (1,) * len(described.classes)
    return balance(settings, labels) if isinstance(settings, Classify) else settings


def population(
    config: Experiment, task: Task, algorithm: Algorithm, uplink: Uplink, local: Local, data: ClientData
) -> Population:
    """What samplers and conditions are built for."""

    def shared(key: jax.Array) -> Any:
        model = task.init(key)
        return trees.split(task.shared(model), model)[0]

    def each() -> Traffic:
        return traffic(algorithm, uplink, jax.eval_shape(shared, jax.random.key(0)))

    return Population(data.sizes, step_counts(local, data.sizes), local.epochs, each, config.rounds)


def describe(federation: Federation) -> DataDescription:
    """The image's shape from what `read` gives, and what the federation says of itself."""
    labels = tuple(int(count) for count in np.sum(federation.labels, 0))
    image = federation.image or shape(federation.train)
    return DataDescription(image, federation.classes, len(federation.train.sizes), labels)


def shape(data: ClientData) -> tuple[int, int, int]:
    """[H, W, C] of an image, by tracing `read`."""
    store, zero = specimen(data), jnp.int32(0)
    fields = jax.eval_shape(lambda store: data.read(store, zero, jnp.zeros(1, jnp.int32)), store)
    height, width, channels = fields["image" if "image" in fields else "mr"].shape[1:]
    return height, width, channels


def begin(
    sim: Simulation,
    config: Experiment,
    plan: Plan,
    checkpoints: Checkpoints,
    resume_from: pathlib.Path | None,
    say: Say,
) -> State:
    """The first state: this run's newest checkpoint, or another run's, or fresh."""
    root = jax.random.key(config.seed)
    ours = checkpoints.latest() is not None
    if not ours and resume_from is None:
        return initial_state(sim, plan, root)
    home = checkpoints if ours else Checkpoints(existing(resume_from))
    state = home.restore(jax.eval_shape(lambda key: init_state(sim, key), root))
    say(f"going on after round {int(state.round)} of {home.folder.parent}")
    if int(state.round) > config.rounds:
        raise UserError(f"rounds={config.rounds}: {home.folder.parent} has done {int(state.round)}; ask for more")
    return place_state(plan, state)
