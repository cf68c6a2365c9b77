"""Kills one of two processes in each phase of a run, starts the run again on 2 and on 3 processes, and compares.

    python scripts/lost_peer.py --out /tmp/lost_peer

Prints a table: what the command said and how it ended, and by how much the final checkpoint differs from that of a run
of two processes that nobody disturbed. Begun again on two processes it must be equal to the last bit.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

VICTIM = "LOST_PEER"  # in the environment: "INDEX phase", the process that dies and when
DELAY_S = 0.01  # seconds from the beginning of the phase until the process is killed
CONFIG = """
import lost_peer
from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    data=Synthetic(clients=12),
    task=Classify(network=LinearSettings()),
    local=LocalTraining(epochs=2, optimizer="optax.sgd", learning_rate=0.01),
    sampling=Uniform(cohort=6),
    rounds=8,
    evaluate_every=2,
    plan=Plan(lanes=1, tune_s=0),
)
lost_peer.arm()
"""

Act = Callable[..., Any]


class Loss(NamedTuple):
    """What became of a run of which a process was killed."""

    phase: str
    victim: int
    code: int
    errors: list[str]
    folder: pathlib.Path


def arm() -> None:
    """Lets this process die in its phase, if it is the victim. The config calls it."""
    index, _, phase = os.environ.get(VICTIM, "").partition(" ")
    if index and os.environ.get("FEDJAX_MRI_PROCESS", "").startswith(f"{index}/"):
        PHASES[phase]()


def die_in(place: Any, name: str, call: int = 1) -> None:
    """Replaces a function by one that kills this process while its call of that number runs."""
    setattr(place, name, dying(getattr(place, name), call))


def die_in_result(place: Any, name: str, call: int) -> None:
    """Replaces a function by one whose result, a function, kills this process while its call of that number runs."""
    make = getattr(place, name)
    setattr(place, name, lambda *args, **named: dying(make(*args, **named), call))


def dying(act: Act, call: int) -> Act:
    """Returns `act` as a function that kills this process while its call of that number runs."""
    calls = list[None]()

    def acted(*args: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            threading.Timer(DELAY_S, os.kill, (os.getpid(), 9)).start()
        return act(*args, **named)

    return acted


def die_building_data() -> None:
    """Dies while it builds the data."""
    from fedjax_mri.data.synthetic import Synthetic

    die_in(Synthetic, "build")


def die_compiling() -> None:
    """Dies while it traces and compiles the rounds."""
    from fedjax_mri.fed.engine import segments

    die_in(segments, "build")


def die_training() -> None:
    """Dies while it trains the second segment."""
    from fedjax_mri.fed.engine import segments

    die_in_result(segments, "build", 2)


def die_evaluating() -> None:
    """Dies while it evaluates after the second segment."""
    from fedjax_mri.run import train

    die_in_result(train, "evaluator", 3)


def die_checkpointing() -> None:
    """Dies while it saves after the second segment."""
    from fedjax_mri.run.checkpoint import Checkpoints

    die_in(Checkpoints, "save", 3)


PHASES: dict[str, Callable[[], None]] = {
    "building data": die_building_data,
    "compiling": die_compiling,
    "training": die_training,
    "evaluating": die_evaluating,
    "checkpointing": die_checkpointing,
}


def command(home: pathlib.Path, out: pathlib.Path, flags: Sequence[str]) -> list[str]:
    """Returns the command that trains the config in `home`, which is written if it is not there."""
    config = home / "lost_peer_config.py"
    if not config.exists():
        config.write_text(CONFIG, encoding="utf-8")
    return [sys.executable, "-m", "fedjax_mri", "train", str(config), "--out", str(out), "--heartbeat", "10", *flags]


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a command: one device a process, and this file importable."""
    here = pathlib.Path(__file__).resolve().parent
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    kept = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in kept if "device_count" not in flag] + ["--xla_force_host_platform_device_count=1"]
    return os.environ | {"PYTHONPATH": paths, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"} | more


def train(home: pathlib.Path, out: pathlib.Path, processes: int) -> subprocess.CompletedProcess:
    """Trains on a number of processes that nobody disturbs."""
    run = command(home, out, ["--processes", str(processes)])
    return subprocess.run(run, env=environment(), capture_output=True, text=True, timeout=300)


def lose(home: pathlib.Path, phase: str, victim: int) -> Loss:
    """Trains on two processes of which `victim` is killed in a phase."""
    out = home / f"{phase} {victim}".replace(" ", "_")
    run = command(home, out, ["--processes", "2"])
    dying = environment(**{VICTIM: f"{victim} {phase}"})
    done = subprocess.run(run, env=dying, capture_output=True, text=True, timeout=300)
    return Loss(phase, victim, done.returncode, errors_of(done.stderr), out)


def lose_joining(home: pathlib.Path, victim: int) -> Loss:
    """Starts one of three processes and a second that is killed while both wait for the third."""
    from fedjax_mri.run import launch

    places, out = launch.local(3), home / f"joining_{victim}"
    runs = [
        subprocess.Popen(
            command(home, out, ["--distributed", places[index], "--join-timeout", "15"]),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    assert "waiting" in (runs[victim].stdout or sys.stdin).readline()
    runs[victim].kill()  # its process sees that and ends as well
    _, errors = runs[1 - victim].communicate(timeout=100)
    runs[victim].communicate()
    return Loss("joining", victim, runs[1 - victim].returncode, errors_of(errors), out)


def errors_of(text: str) -> list[str]:
    """Returns the lines that were said as errors, and of a traceback its last."""
    return [line for line in text.splitlines() if "error" in line.lower()]


def final(run: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a run's newest checkpoint."""
    from fedjax_mri.run.checkpoint import Checkpoints

    return Checkpoints(run).leaves()


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Returns the largest difference between two checkpoints; infinity if they have not the same arrays."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    return max(float(np.max(np.abs(a[name] - b[name].astype(a[name].dtype)), initial=0)) for name in a)


def restarted(home: pathlib.Path, lost: Loss, processes: int) -> dict[str, np.ndarray]:
    """Returns the final state of a lost run that is started again, in a copy of its folder."""
    out = home / f"{lost.folder.name}_on_{processes}"
    if lost.folder.exists():
        shutil.copytree(lost.folder, out)
    done = train(home, out, processes)
    if done.returncode:
        raise RuntimeError(f"{lost.phase}: cannot be started again on {processes} processes: {done.stderr}")
    return final(out)


def losses(home: pathlib.Path) -> Iterator[Loss]:
    """Yields what becomes of a run for each phase and each of two victims."""
    for victim in (1, 0):
        yield lose_joining(home, victim)
        for phase in PHASES:
            yield lose(home, phase, victim)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Kills a process of a run in each phase and starts it again.")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="an empty folder")
    home = parser.parse_args().out.resolve()
    home.mkdir(parents=True)
    train(home, home / "whole", 2).check_returncode()
    whole = final(home / "whole")
    print("| phase | killed | exit code | said | again on 2 | again on 3 |\n|---|---|---|---|---|---|", flush=True)
    for lost in losses(home):
        again = " | ".join(f"{difference(whole, restarted(home, lost, count)):.1g}" for count in (2, 3))
        said = "; ".join(lost.errors)
        print(f"| {lost.phase} | process {lost.victim} | {lost.code} | {said} | {again} |", flush=True)


if __name__ == "__main__":
    main()
