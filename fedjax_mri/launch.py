"""Copies of this command as the processes of one run: started, heard, signalled and ended together.

Each process is watched from outside, because C++ ends it without a word to Python when another one is gone.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple

from fedjax_mri.errors import UserError

PLACE = "FEDJAX_MRI_PROCESS"  # in a process's environment: "1/4@host:port", or CLUSTER
CLUSTER = "cluster"  # the place is found in the environment by JAX
GRACE = 5.0  # seconds that the others have for their last words when one has failed
CHATTER = re.compile(r"\[Gloo\] Rank|WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:\d\d")
FATAL = re.compile(r"F\d{4} \d\d:\d\d:\d\d|terminate called")  # what follows is a C++ stack
ERROR = re.compile(r"error: |Traceback ")
AGAIN = "run the same command again to go on from the last checkpoint"


class Child(NamedTuple):
    """One process of the run, as its launcher sees it."""

    number: int
    process: subprocess.Popen[str]
    errors: list[str]  # lines, from the first error on; process 0 says its own at once
    fatal: list[str]  # the line with which C++ ended it, if it did


def flags(command: argparse.ArgumentParser) -> None:
    """The flags of a command that can run as several processes."""
    ways = command.add_mutually_exclusive_group()
    ways.add_argument("--processes", type=int, metavar="N", help="run as N processes that share this machine")
    text = "run as one of several processes: found by SLURM, a TPU pod, ...; or given as INDEX/COUNT@HOST:PORT"
    ways.add_argument("--distributed", nargs="?", const=CLUSTER, metavar="PLACE", help=text)
    text = "seconds after which a silent process counts as dead (default: 30)"
    command.add_argument("--heartbeat", type=int, default=30, metavar="SECONDS", help=text)


def wanted(words: argparse.Namespace) -> bool:
    """Whether to launch processes; a launched one does not launch again."""
    several = getattr(words, "processes", None) is not None or getattr(words, "distributed", None) is not None
    return several and PLACE not in os.environ


def run(words: argparse.Namespace, arguments: Sequence[str]) -> int:
    """The command in the processes that `words` ask for: 0, or the exit code of the first that failed."""
    places = [words.distributed] if words.distributed else local(words.processes)
    children = [start(number, place, len(places), arguments) for number, place in enumerate(places)]
    listeners = [thread for child in children for thread in listen(child)]
    sent = forward(children)
    order = attend(children)
    for thread in listeners:
        thread.join()
    for line in last_words(order, sent):
        print(line, file=sys.stderr)
    return next((code(child) for child in order if code(child)), 0)


def local(count: int) -> list[str]:
    """The places of `count` processes on this machine."""
    if count < 1:
        raise UserError(f"--processes {count}: must be 1 or more")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return [f"{index}/{count}@localhost:{free.getsockname()[1]}" for index in range(count)]


def start(number: int, place: str, count: int, arguments: Sequence[str]) -> Child:
    """Process `number` of `count` on this machine, on its share of the cores, deaf to the terminal's Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fedjax_mri", *arguments],
        env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, PLACE: place, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, share(sorted(os.sched_getaffinity(0)), number, count))
    return Child(number, process, [], [])


def share(cores: Sequence[int], number: int, count: int) -> Sequence[int]:
    """The cores of one of `count` processes: neighbours, at least one."""
    mine = cores[number * len(cores) // count : (number + 1) * len(cores) // count]
    return mine or [cores[number % len(cores)]]


def forward(children: Sequence[Child]) -> list[int]:
    """From now on SIGTERM and Ctrl-C go to every child; the list fills with the signals sent."""
    sent: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        sent.append(number)
        for child in children:
            child.process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    return sent


def attend(children: Sequence[Child]) -> list[Child]:
    """The children that ended by themselves, first to last. Once one has failed the others have GRACE seconds."""
    ended: list[Child] = []
    deadline = float("inf")
    while len(ended) < len(children) and time.monotonic() < deadline:
        time.sleep(0.05)
        ended += [child for child in children if child not in ended and child.process.poll() is not None]
        if deadline == float("inf") and any(map(code, ended)):
            deadline = time.monotonic() + GRACE
    for child in children:
        if child not in ended:
            child.process.kill()
        child.process.wait()
    return ended


def code(child: Child) -> int:
    """Exit code as a shell would give it."""
    ended = child.process.returncode
    return 128 - ended if ended < 0 else ended


def listen(child: Child) -> Iterator[threading.Thread]:
    """Threads that pass on what a child says until it closes its mouth."""
    for hear, stream in ((hear_words, child.process.stdout), (hear_errors, child.process.stderr)):
        thread = threading.Thread(target=hear, args=(child, stream), daemon=True)
        thread.start()
        yield thread


def hear_words(child: Child, stream: IO[str]) -> None:
    """Words of process 0 are shown; the others have none."""
    for line in stream:
        if child.number == 0 and not CHATTER.match(line):
            print(line, end="", flush=True)


def hear_errors(child: Child, stream: IO[str]) -> None:
    """Process 0 is heard at once, of the others what starts with an error, of C++ nothing."""
    for line in stream:
        if FATAL.match(line):
            child.fatal.append(line.rstrip())
        if child.fatal or CHATTER.match(line):
            continue
        if child.errors or ERROR.match(line):
            child.errors.append(line.rstrip())
        if child.number == 0:
            print(line, end="", file=sys.stderr, flush=True)


def last_words(ended: Sequence[Child], sent: Sequence[int]) -> Iterator[str]:
    """What is still to be said once all are silent: how each failed, unless process 0 has said the same."""
    said = {bare(line) for child in ended if child.number == 0 for line in child.errors}
    for child in ended:
        name = f"process {child.number}"
        if child.number and any(bare(line) not in said for line in child.errors if line.startswith("error: ")):
            yield from (f"{name}: {line}" for line in child.errors)
        if not child.errors and code(child) and -child.process.returncode not in sent:
            yield from silent(child, name)


def silent(child: Child, name: str) -> Iterable[str]:
    """The line for a child that failed without one of its own."""
    ended = child.process.returncode
    if child.fatal:
        return [f"error: {name} lost contact with the others; {AGAIN}"]
    if ended < 0:
        return [f"error: {name} was ended by {signal.Signals(-ended).name}; {AGAIN}"]
    return []  # it was asked to stop, or has said why on another stream


def bare(line: str) -> str:
    """An error without the process that it is said to come from."""
    return re.sub(r"^error: (process \d+: )*", "", line)
