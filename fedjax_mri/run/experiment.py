"""An experiment from its config to its results.

config -> data -> simulation -> plan (prepare.py) -> loop (train.py, loop.py) -> results (results.py) -> report
"""

import pathlib
import signal
from collections.abc import Callable

from fedjax_mri.run import processes, reference, results
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.observers import RunProgress
from fedjax_mri.run.prepare import Say, prepare
from fedjax_mri.run.stopping import StopSignal
from fedjax_mri.run.train import train


def run(
    config: Experiment,
    out: pathlib.Path,
    resume_from: pathlib.Path | None = None,
    say: Say = print,
    watch: Callable[[RunProgress], None] = lambda progress: None,
) -> signal.Signals | None:
    """Trains `config` in folder `out`, or goes on where it stopped; returns the signal that stopped it early, if any.

    `watch` is called after each segment. Raises UserError on a bad config, data or checkpoint, and when the training
    loss is no longer finite.
    """
    with StopSignal(say) as stop:
        prepared, state = prepare(config, out, resume_from, say)
        last, examples = train(prepared, state, stop, watch, say)
        with prepared.clock.measure("evaluate"):
            stopped = last.round < config.rounds and stop.received_by_any()
            kept = None if stopped else reference.build(prepared, last.state)  # all processes take part
    prepared.log.close()
    if processes.main():
        if kept is not None:
            results.save_reference(out, kept)
        results.save(out, prepared.federation, last.evaluated.tests, examples, prepared.clock.seconds)
    if last.round >= config.rounds or stop.received is None:
        return None
    say(f"{stop.received.name}: stopped after round {last.round}, saved; the same command goes on from there")
    return stop.received
