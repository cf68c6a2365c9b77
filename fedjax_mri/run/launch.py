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
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from fedjax_mri.core.errors import UserError

PLACE = "FEDJAX_MRI_PROCESS"  # in a process's environment: "1/4@host:port", or CLUSTER
CLUSTER = "cluster"  # the place is found in the environment by JAX
GRACE = 5.0  # seconds that the others have for their last words when one has failed
CHATTER = re.compile(r"\[Gloo\] Rank|.*peer ranks|WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:\d\d")
FATAL = re.compile(r"F\d{4} \d\d:\d\d:\d\d|terminate called")  # what follows is a C++ stack
ERROR = re.compile(r"error: |Traceback ")
AGAIN = "run the same command again to go on from the last checkpoint"


class Child(NamedTuple):
    """One process of the run, as its launcher sees it."""

    name: str
    heard: bool  # at once, and with all its words; of the others, errors alone are shown, at the end
    process: subprocess.Popen[str]
    errors: list[str]  # lines, from the first error on
    fatal: list[str]  # lines with which C++ ended it, if it did


def flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of a command that can run as several processes."""
    ways = command.add_mutually_exclusive_group()
    ways.add_argument("--processes", type=int, metavar="N", help="run as N processes that share this machine")
    text = "run as one of several processes: found by SLURM, a TPU pod, ...; or given as INDEX/COUNT@HOST:PORT"
    ways.add_argument("--distributed", nargs="?", const=CLUSTER, metavar="PLACE", help=text)
    text = "seconds after which a silent process counts as dead (default: 30)"
    command.add_argument("--heartbeat", type=int, default=30, metavar="SECONDS", help=text)
    text = "seconds to wait for the other processes at the start (default: 300)"
    command.add_argument("--join-timeout", type=int, default=300, metavar="SECONDS", help=text)


def wanted(words: argparse.Namespace) -> bool:
    """Returns whether to launch processes; a launched one does not launch again."""
    several = getattr(words, "processes", None) is not None or getattr(words, "distributed", None) is not None
    return several and PLACE not in os.environ


def run(words: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Runs the command in the processes that `words` ask for; returns 0, or the exit code of the first that failed."""
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
    """Returns the places of `count` processes on this machine."""
    if count < 1:
        raise UserError(f"--processes {count}: must be 1 or more")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return [f"{index}/{count}@localhost:{free.getsockname()[1]}" for index in range(count)]


def start(number: int, place: str, count: int, arguments: Sequence[str]) -> Child:
    """Launches process `number` of `count` here and returns it.

    It runs on its share of the cores, deaf to the terminal's Ctrl-C.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "fedjax_mri", *arguments],
        env={
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **os.environ,
            PLACE: place,
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
        },
        stdin=subprocess.PIPE,  # closes when this process dies, however it dies
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, share(sorted(os.sched_getaffinity(0)), number, count))
    index = place.split("/")[0]
    return Child("this process" if place == CLUSTER else f"process {index}", number == 0, process, [], [])


def share(cores: Sequence[int], number: int, count: int) -> Sequence[int]:
    """Returns the cores of one of `count` processes: neighbours, at least one."""
    mine = cores[number * len(cores) // count : (number + 1) * len(cores) // count]
    return mine or [cores[number % len(cores)]]


def forward(children: Sequence[Child]) -> list[int]:
    """Sends SIGTERM and Ctrl-C on to every child from now on; returns the list that fills with the signals sent."""
    sent: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        sent.append(number)
        for child in children:
            child.process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    return sent


def attend(children: Sequence[Child]) -> list[Child]:
    """Returns the children that ended by themselves, first to last.

    Once one has failed the others have GRACE seconds.
    """
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
    """Returns the exit code as a shell would give it.

    It is 1 for a child that C++ aborted while it left after an error of its own.
    """
    if child.errors and child.fatal:
        return 1
    ended = child.process.returncode
    return 128 - ended if ended < 0 else ended


def listen(child: Child) -> Iterator[threading.Thread]:
    """Starts threads that pass on what a child writes until it closes its streams, and yields them."""
    for hear, stream in ((hear_words, child.process.stdout), (hear_errors, child.process.stderr)):
        thread = threading.Thread(target=hear, args=(child, stream), daemon=True)
        thread.start()
        yield thread


def hear_words(child: Child, stream: IO[str]) -> None:
    """Prints the words of a child, if it is the one that is heard."""
    for line in stream:
        if child.heard and not CHATTER.match(line):
            print(line, end="", flush=True)


def hear_errors(child: Child, stream: IO[str]) -> None:
    """Keeps a child's errors, and prints what it writes if it is the one that is heard.

    What C++ says is not printed.
    """
    for line in stream:
        if child.fatal or FATAL.match(line):
            child.fatal.append(line.rstrip())
            continue
        if CHATTER.match(line):
            continue
        if child.errors or ERROR.match(line):
            child.errors.append(line.rstrip())
        if child.heard:
            print(line, end="", file=sys.stderr, flush=True)


def last_words(ended: Sequence[Child], sent: Sequence[int]) -> Iterator[str]:
    """Yields what is still to be said once all are silent: how each failed, unless it has been said."""
    said = {bare(line) for child in ended if child.heard for line in child.errors}
    for child in ended:
        if not child.heard and any(bare(line) not in said for line in child.errors if line.startswith("error: ")):
            yield from (f"{child.name}: {line}" for line in child.errors)
        if not child.errors and child.process.returncode < 0 and -child.process.returncode not in sent:
            yield f"error: {child.name} {fate(child)}"


def fate(child: Child) -> str:
    """Returns what became of a child that a signal ended, its own abort among them."""
    if any("RegisterTask" in line for line in child.fatal):
        return "could not reach process 0; are all started, with the same PLACE but for INDEX?"
    if child.fatal:
        return f"lost contact with the others; {AGAIN}"
    return f"was ended by {signal.Signals(-child.process.returncode).name}; {AGAIN}"


def bare(line: str) -> str:
    """Returns an error without the process that it is said to come from."""
    return re.sub(r"^error: (process \d+: )*", "", line)
