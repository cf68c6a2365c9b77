"""An experiment from config to results: build, train segment by segment, judge, save, report."""

import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri import runfolder, trees
from fedjax_mri.checkpoint import Checkpoints
from fedjax_mri.config import Experiment, digest
from fedjax_mri.data.client_data import ClientData, Federation, Source, Test
from fedjax_mri.errors import UserError
from fedjax_mri.fed import engine, evaluate, local
from fedjax_mri.fed.engine import Simulation, State, Work
from fedjax_mri.fed.plan import Plan
from fedjax_mri.metrics import fairness

PyTree = Any
Say = Callable[[str], None]


class Described(NamedTuple):
    """What must be known of the data to rebuild a run's model without the data."""

    image: tuple[int, int, int]  # [H, W, C]
    classes: tuple[str, ...]
    clients: int


class Progress(NamedTuple):
    """A run between two segments, for whoever watches it."""

    round: int
    rounds: int
    figures: Mapping[str, float]


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
    plan = config.plan.resolve()
    config.local.build(config.rounds)  # a bad setting is refused before any data is read
    runfolder.claim(out, config)
    started = time.perf_counter()
    source: Source = config.data
    federation = source.build(config.seed)
    for warning in federation.warnings:
        say(f"warning: {warning}")
    described = describe(federation)
    sim = assemble(config, described, federation.train, plan)
    checkpoints = Checkpoints(out, config.keep)
    state = begin(sim, config, checkpoints, resume_from, say)
    runfolder.write_json(out / "run.json", facts(config, plan, federation, described))
    with Stop(say) as stop:
        trained = train(sim, plan, config, federation, state, out, checkpoints, time.perf_counter() - started, stop, watch)
    if int(trained.round) >= config.rounds or stop.asked is None:
        return None
    say(f"{stop.asked.name}: stopped after round {int(trained.round)}, saved; the same command goes on from there")
    return stop.asked


def assemble(config: Experiment, described: Described, data: ClientData, plan: Plan) -> Simulation:
    """The simulation that a config describes."""
    return Simulation(
        task=config.task.build(described.image, len(described.classes), plan.conv),
        algorithm=config.algorithm.build(),
        uplink=config.uplink.build(),
        sample=config.sampling.build(len(data.sizes)),
        local=config.local.build(config.rounds),
        data=data,
    )


def describe(federation: Federation) -> Described:
    """The image's shape from what `read` gives."""
    data = federation.train
    zero = jnp.int32(0)
    image = jax.eval_shape(lambda: data.read(data.store, zero, jnp.zeros(1, jnp.int32)))["image"]
    return Described(image.shape[1:], federation.classes, len(data.sizes))


def begin(
    sim: Simulation, config: Experiment, checkpoints: Checkpoints, resume_from: pathlib.Path | None, say: Say
) -> State:
    """The first state: this run's newest checkpoint, or another run's, or fresh."""
    fresh = jax.jit(lambda key: engine.init(sim, key))
    root = jax.random.key(config.seed)
    if checkpoints.latest() is None and resume_from is None:
        return fresh(root)
    ours = checkpoints.latest() is not None
    if not ours and not (resume_from or pathlib.Path()).joinpath("checkpoints").is_dir():
        raise UserError(f"--resume-from {resume_from}: no checkpoints there; give a run folder")
    home = checkpoints if ours else Checkpoints(resume_from or pathlib.Path())
    state = home.restore(jax.eval_shape(fresh, root))
    say(f"going on after round {int(state.round)} of {home.folder.parent}")
    if int(state.round) > config.rounds:
        raise UserError(f"rounds={config.rounds}: {home.folder.parent} has done {int(state.round)}; ask for more")
    return jax.tree.map(jnp.asarray, state)


def train(
    sim: Simulation,
    plan: Plan,
    config: Experiment,
    federation: Federation,
    state: State,
    out: pathlib.Path,
    checkpoints: Checkpoints,
    preparing: float,
    stop: "Stop",
    watch: Callable[[Progress], None],
) -> State:
    """Segments until the rounds are done or `stop` says so: train, judge, log, save."""
    root, store = jax.random.key(config.seed), sim.data.store
    clock = Clock(preparing)
    segment = clock.time("compile", lambda: compiled(sim, plan, config, state, root))
    judges = {name: evaluate.build(sim.task, plan, test) for name, test in federation.tests.items()}
    log = runfolder.Log(out, int(state.round))
    results = judge(sim, judges, state, clock)
    if not log.history:
        log.write({"round": int(state.round), **figures(sim, results)})
    while int(state.round) < config.rounds and not stop.asked:
        length = min(config.evaluate_every - int(state.round) % config.evaluate_every, config.rounds - int(state.round))
        state, work = clock.time("train", lambda s=state, n=length: segment(s, root, store, jnp.int32(n)))
        line = training_figures(sim, work, clock.last)
        refuse_divergence(line, int(state.round), config)
        results = judge(sim, judges, state, clock)
        line = {"round": int(state.round), **line, **figures(sim, results)}
        log.write(line)
        clock.time("checkpoint", lambda s=state: checkpoints.save(int(s.round), s))
        watch(Progress(int(state.round), config.rounds, line))
    log.close()
    save_results(out, federation, results, samples(sim, federation, state), clock)
    return state


def compiled(sim: Simulation, plan: Plan, config: Experiment, state: State, root: jax.Array) -> Callable[..., Any]:
    """The segment, compiled ahead of the first call so that its time is known."""
    segment = engine.build(sim, plan, config.evaluate_every)
    return segment.lower(state, root, sim.data.store, jnp.int32(1)).compile()


def judge(sim: Simulation, judges: Mapping[str, evaluate.Evaluate], state: State, clock: "Clock") -> dict[str, Any]:
    """Metrics by client and predictions by example, for each test set."""
    return {name: clock.time("evaluate", lambda one=one: one(state)) for name, one in judges.items()}


def figures(sim: Simulation, results: Mapping[str, Any]) -> dict[str, float]:
    """Headline figures of each test set as "test set/figure", pooled and over clients."""
    line: dict[str, float] = {}
    for name, (metrics, _) in results.items():
        pooled = jax.tree.map(lambda x: x.sum(0), metrics)
        scores = np.asarray(sim.task.score(metrics))
        spread = fairness.spread(scores, np.ones_like(scores))
        named = {**sim.task.summary(pooled), "worst_decile": spread["worst decile"], "client_std": spread["std"]}
        line |= {f"{name}/{key}": round(float(value), 6) for key, value in named.items()}
    return line


def training_figures(sim: Simulation, work: Work, seconds: float) -> dict[str, float]:
    """What a segment amounted to, and how fast; `work` has a leading axis of rounds."""
    work = jax.tree.map(lambda x: np.asarray(x).sum(0), work)
    summary = {f"train/{name}": float(value) for name, value in sim.task.summary(work.metrics).items()}
    return {
        **summary,
        "seconds": seconds,
        "clients_per_second": float(work.clients) / seconds,
        "images_per_second": float(work.examples) / seconds,
        "useful_share": float(work.steps) / max(float(work.slots), 1.0),
    }


def refuse_divergence(line: Mapping[str, float], round: int, config: Experiment) -> None:
    """Raises UserError when training has left the finite numbers; the last checkpoint is from before."""
    if not math.isfinite(line.get("train/nll", 0.0)):
        raise UserError(
            f"round {round}: the training loss is no longer finite; lower local.learning_rate "
            f"(now {config.local.learning_rate}); the last checkpoint is from before"
        )


def facts(config: Experiment, plan: Plan, federation: Federation, described: Described) -> dict[str, Any]:
    """What run.json says."""
    return {
        "name": config.name,
        "hash": digest(config),
        "environment": runfolder.environment(plan),
        "classes": list(described.classes),
        "image": list(described.image),
        "clients": described.clients,
        "synthetic": federation.synthetic,
        "warnings": list(federation.warnings),
        "tables": [table._asdict() for table in federation.tables],
    }


def samples(sim: Simulation, federation: Federation, state: State, count: int = 24) -> dict[str, np.ndarray]:
    """A few test examples spread over the first test set, with what the model makes of them."""
    data = next(iter(federation.tests.values())).data
    client, index = (each[:: max(len(each) // count, 1)][:count] for each in evaluate.positions(data.sizes))
    owner = next(iter(federation.tests.values())).owner[client]

    def one(client: jax.Array, index: jax.Array, owner: jax.Array) -> tuple[PyTree, PyTree]:
        batch = {**data.read(data.store, client, index[None]), "weight": jnp.ones(1)}
        model = trees.join(state.server.model, evaluate.own(state.clients, owner))
        return {name: batch[name][0] for name in ("image", "label")}, sim.task.predict(*model, batch)[0]

    seen, predicted = jax.jit(jax.vmap(one))(client, index, owner)
    return {"samples": seen["image"], "sample_labels": seen["label"], "sample_probabilities": predicted}


def save_results(
    out: pathlib.Path, federation: Federation, results: Mapping[str, Any], shown: Mapping[str, Any], clock: "Clock"
) -> None:
    """results.npz: all that the report draws."""
    arrays = {"labels": federation.labels, **{name: np.asarray(value) for name, value in shown.items()}}
    for name, test in federation.tests.items():
        metrics, predictions = results[name]
        client, _ = evaluate.positions(test.data.sizes)
        arrays |= {f"{name}/{field}": value for field, value in metrics._asdict().items()}
        arrays |= {f"{name}/predictions": predictions, f"{name}/client": client, f"{name}/truth": truth(test)}
    runfolder.save_arrays(out / "results.npz", arrays)
    runfolder.write_json(out / "timings.json", clock.seconds)


def truth(test: Test) -> np.ndarray:
    """The label of each example, int32 [n], in the order of predictions."""
    client, index = evaluate.positions(test.data.sizes)
    one = jax.vmap(lambda store, c, i: test.data.read(store, c, i[None])["label"][0], (None, 0, 0))
    return np.asarray(jax.jit(one)(test.data.store, client, index))


def evaluate_run(run: pathlib.Path, source: Source | None, say: Say) -> dict[str, dict[str, float]]:
    """Figures of a run's newest model on its own test sets, or on the data of another source.

    Raises UserError when that data has classes or channels that the model does not know.
    """
    config, saved = runfolder.read_config(run), runfolder.read_json(run / "run.json")
    described = Described(tuple(saved["image"]), tuple(saved["classes"]), saved["clients"])
    plan = config.plan.resolve()
    if source is None:
        tests = config.data.build(config.seed).tests
    else:
        tests, tables = source.evaluation(described.classes, config.seed)
        for table in tables:
            say(f"{table.title}: {len(table.rows)} rows; {table.note}")
    nobody = ClientData(np.zeros(described.clients, np.int32), (), lambda store, client, indices: {})
    sim = assemble(config, described, nobody, plan)
    like = jax.eval_shape(lambda key: engine.init(sim, key), jax.random.key(0))
    state = Checkpoints(run).restore(like)
    results = {name: evaluate.build(sim.task, plan, test)(state) for name, test in tests.items()}
    return {name: figures(sim, {name: one}) for name, one in results.items()}


def costs(config: Experiment) -> dict[str, str]:
    """What a config will take: parameters, memory a lane, bytes and local steps a round."""
    plan = config.plan.resolve()
    federation = config.data.build(config.seed)
    described = describe(federation)
    sim = assemble(config, described, federation.train, plan)
    state = jax.eval_shape(lambda key: engine.init(sim, key), jax.random.key(0))
    model = jax.eval_shape(sim.task.init, jax.random.key(0))
    optimizers = jax.eval_shape(lambda m: local.init_optimizers(sim.task, sim.local, m, jnp.float32(0)), model)
    cohort = jax.eval_shape(sim.sample, jax.random.key(0), jnp.int32(0)).client.size
    steps = np.asarray(local.steps(sim.local, np.asarray(federation.train.sizes)))
    up = trees.nbytes(state.server.model)
    return {
        "parameters": f"{trees.count(model.params):,}",
        "clients": f"{described.clients:,} with {int(np.sum(federation.train.sizes)):,} examples",
        "memory per lane": f"{(trees.nbytes(model) * 2 + trees.nbytes(optimizers)) / 1e6:.2f} MB: model, gradient, optimiser",
        "bytes per round": f"{cohort * up / 1e6:.2f} MB up and as many down: {cohort} clients x {up / 1e6:.3f} MB",
        "steps per round": f"{steps.mean() * cohort:.0f} local steps expected, over {plan.devices} x {plan.lanes} lanes",
    }


class Clock:
    """Seconds spent on each kind of work."""

    def __init__(self, preparing: float = 0.0) -> None:
        self.seconds: dict[str, float] = {"prepare": preparing}
        self.last = 0.0

    def time(self, what: str, work: Callable[[], Any]) -> Any:
        """What `work` gives, with all its arrays computed."""
        start = time.perf_counter()
        result = work()
        if not callable(result):
            jax.block_until_ready(result)
        self.last = time.perf_counter() - start
        self.seconds[what] = self.seconds.get(what, 0.0) + self.last
        return result


class Stop:
    """SIGTERM and Ctrl-C as a wish to stop after this segment; a second Ctrl-C stops at once."""

    def __init__(self, say: Say, signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        self.asked: signal.Signals | None = None
        self._say, self._signals = say, tuple(signals)

    def __enter__(self) -> "Stop":
        self._before = {one: signal.signal(one, self._ask) for one in self._signals}
        return self

    def __exit__(self, *error: Any) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._say(f"{self.asked.name}: finishing this segment, then saving")
