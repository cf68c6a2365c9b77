"""One run trained: its segments, its evaluations, what follows its last round, and who watches it."""

import functools
import math
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.fed.after import ensemble, finetune
from fedjax_mri.fed.attack.off import Off
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.fed.engine.evaluate import Evaluation
from fedjax_mri.fed.engine.lanes import RoundStats
from fedjax_mri.fed.engine.simulation import Simulation, State
from fedjax_mri.run import loop, observers, results
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.line import LogEntry, SegmentFigures, Simulated
from fedjax_mri.run.loop import Advance, Training
from fedjax_mri.run.observers import Evaluated, RunObserver, RunProgress, Trained
from fedjax_mri.run.prepare import Run, Say
from fedjax_mri.run.stopping import StopSignal

Examples = dict[str, np.ndarray]  # fields [s, ...] of a few test examples


def train(
    run: Run,
    state: State,
    stop: StopSignal,
    still_held: Callable[[], None],
    watch: Callable[[RunProgress], None],
    say: Say,
) -> tuple[RunProgress, Examples]:
    """Trains a run to its last round, or until it ends early; returns the last progress and a few examples to show.

    Raises UserError when the training loss or an evaluation is not finite, and then saves nothing of it; and from
    `still_held` when another process writes the folder by now.
    """
    config, examples = run.config, examples_of(run)
    training = Training(config.rounds, config.evaluate_every, partial(compile_segment, run), evaluator(run))
    has_pictures = config.pictures and run.sim.task.shown is not None
    watching: list[RunObserver] = [
        observers.after_segments(lambda progress: still_held()),
        # The line comes before the checkpoint: on resuming a line too many is cut off, but a lost one is lost.
        observers.write_lines(run.log),
        observers.save_best(config.early, run.log, run.folder, run.clock, run.federation),
        observers.save_checkpoints(run.checkpoints, run.clock),
        *([observers.save_pictures(examples, run.folder, run.federation.synthetic)] if has_pictures else []),
        observers.after_segments(watch),
        observers.name_nonfinite_clients(say),
        observers.end_without_improvement(config.early, run.log),
        observers.end_on_signal(stop),
    ]
    last = loop.train(training, state, int(state.round), watching, run.clock)
    return last, examples(last.state)


def compile_segment(run: Run) -> Advance[State, Trained]:
    """Returns the compiled rounds of a run's segments."""
    root = jax.random.key(run.config.seed)
    rounds = segments.build(run.sim, run.plan, root, run.config.evaluate_every, run.programs)

    def advance(state: State, length: int) -> tuple[State, Trained]:
        with run.clock.measure("train"):
            state, work, waited = rounds(state, length)
        figures = segment_figures(run.sim, work, run.clock.last, waited)
        if failure := training_failure(work, figures):
            raise UserError(divergence_message(run, int(state.round), failure))
        if int(state.round) < run.config.rounds:
            return state, Trained(figures, {})
        with run.clock.measure("evaluate"):
            state, concluded = conclude(run, state)
        return state, Trained(figures, concluded)

    return advance


def evaluator(run: Run) -> Callable[[State, Trained | None], Evaluated]:
    """Returns what evaluates a state on the run's test sets, compiled when it is first used.

    It raises UserError when predictions are not finite. Figures may be undefined all the same, see `evaluate.failure`.
    """
    on_tests = evaluate.build(run.sim.task, run.plan, run.federation.tests, run.programs)

    def evaluated(state: State, trained: Trained | None) -> Evaluated:
        tests = on_tests(state)
        concluded = trained.concluded if trained else {}
        if failure := evaluate.failure({**tests, **concluded}):
            told = divergence_message if trained else bad_start_message
            raise UserError(told(run, int(state.round), failure))
        figures = results.metrics_by_test(run.sim.task, {**tests, **concluded})
        spent = privacy_figures(run.sim, state)
        line = LogEntry(int(state.round), figures, trained.figures if trained else None, spent)
        return Evaluated(line, tests, run.sim.task.headline[0])

    return evaluated


def examples_of(run: Run) -> Callable[[State], Examples]:
    """Returns what computes, for a state, a few examples of the first test set as the task shows them."""

    @functools.cache  # it sends the test set to the devices once more: not before there is something to show
    def program() -> Callable[[State], dict[str, Evaluation]]:
        few = evaluate.few_examples(next(iter(run.federation.tests.values())))
        return evaluate.build(evaluate.showing_task(run.sim.task), run.plan, {"": few}, run.programs, "show")

    return lambda state: program()(state)[""].kept


def conclude(run: Run, state: State) -> tuple[State, dict[str, Evaluation]]:
    """Does what follows the last round; returns the state with the distilled model, and what was evaluated on the way.

    The ensemble of clients is evaluated and distilled into the server's model, which is fine-tuned and evaluated.
    """
    config, sim, plan, tests = run.config, run.sim, run.plan, run.federation.tests
    root, found = jax.random.key(config.seed), dict[str, Evaluation]()
    if sim.algorithm.member is not None and sim.task.tally is not None:
        found |= ensemble.evaluate_ensemble(sim, plan, tests, state)
    if config.distil.epochs and config.distil.source is not None:
        images = check.build_source(config.distil.source, config.seed).train
        state = ensemble.distil(sim, plan, config.distil, images, state, root)
    if config.finetune.epochs:
        found |= finetune.evaluate_finetuned(sim, plan, tests, config.finetune.epochs, state, root)
    return state, found


def segment_figures(sim: Simulation, work: RoundStats, seconds: float, waited: float) -> SegmentFigures:
    """Returns what a segment amounted to, and how fast it was.

    work: leading axis [rounds]; seconds: of the whole segment, `waited` of which rounds waited for examples.
    """
    skipped = float(np.sum(np.asarray(work.clients) == 0))
    work = jax.tree.map(lambda x: np.asarray(x).sum(0), work)
    trained = sim.task.summary(work.metrics) if work.clients else {}  # nobody may have come
    return SegmentFigures(
        figures={name: float(value) for name, value in trained.items()},
        seconds=seconds,
        clients_per_second=float(work.clients) / seconds,
        images_per_second=float(work.examples) / seconds,
        useful_share=float(work.steps) / max(float(work.slots), 1.0),
        waited_share=waited / seconds,
        simulated=Simulated(**{name: float(value) for name, value in work.cost._asdict().items()}, skipped=skipped),
        uplink={name: float(value) for name, value in work.notes.items()},
    )


def privacy_figures(sim: Simulation, state: State) -> dict[str, float]:
    """Returns the epsilon that a private run has spent, the hospitals' mean, and an audit's lower bound.

    Empty without privacy.
    """
    guarantee, round = sim.guarantee, int(state.round)
    if guarantee is None:
        return {}
    mean = {} if guarantee.mean is None else {"epsilon_mean": guarantee.mean(round)}
    lower = {} if guarantee.lower is None else {"epsilon_lower": guarantee.lower(jax.device_get(state.uplink))}
    return {"epsilon": guarantee.epsilon(round), **mean, **lower}


def training_failure(work: RoundStats, trained: SegmentFigures) -> str:
    """Returns what shows that the training of a segment has failed, or an empty string; work: axis [rounds].

    It looks at the sums over local steps that figures are computed from. They are finite as long as losses are, whereas
    a figure may be undefined, such as the precision of a class that does not occur. If all figures are undefined
    although clients have trained, the updates of all of them have counted as zero.
    """
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(work.metrics))
    some = not trained.figures or any(map(math.isfinite, trained.figures.values()))
    return "" if finite and some else "the training loss is no longer finite"


def divergence_message(run: Run, round: int, failure: str) -> str:
    """Returns why training cannot go on after `round`, and what to do."""
    remedy, saved = divergence_remedy(run.config), run.checkpoints.latest()
    if saved is None:
        then = f"nothing was saved: {remedy}, and run the same command again"
    else:
        then = (
            f"round {saved} is saved: to go on from it, {remedy}, and give another folder, "
            f"--out NEW --resume-from {run.folder}"
        )
    return f"round {round}: {failure}; {then}"


def divergence_remedy(config: Experiment) -> str:
    """Returns what may keep the training of a config from diverging."""
    rate = f"lower local.learning_rate (now {config.local.learning_rate})"
    attacked = not isinstance(config.attack, Off)
    return rate + attacked * ", or withstand the attack by another rule (--fed.uplink.reduce, docs/robustness.md)"


def bad_start_message(run: Run, round: int, failure: str) -> str:
    """Returns why training cannot begin with a model of `round`, and what to do."""
    return f"round {round}, before training: {failure}; check the weights that it starts from, and the test images"
