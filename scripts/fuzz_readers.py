"""Damages small files of every kind in thousands of ways and reads them: what comes back must be a line or a result.

    python scripts/fuzz_readers.py                            # 2,000 mutations of each file; prints a table
    python scripts/fuzz_readers.py --count 100 --only NIfTI

Each file is read as `convert` reads it: the scan, its slices as a model takes them, and a result that is written back.
That is done in another process, which is ended where a file takes longer than it may. The memory of that process is
compared with what it had before, and what the limits allow. A line is a UserError; it is unforeseen where it came from
a decoder's own exception.
"""

import argparse
import multiprocessing
import pathlib
import resource
import shutil
import sys
import tempfile
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from fuzz_corpus import write

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import read, units
from fedjax_mri.data.files.scan import Conversion, Limits

LIMITS = Limits(pixels=2**20, bytes=2**24)
MEMORY = 400  # MB more than at the start: a few float32 copies of what the limits allow, and the libraries' code
SECONDS = 45.0  # of one file; most take milliseconds, and a DICOM decoder is given 10 s
HEADER = 600  # bytes in which most fields of headers lie
EXTREMES = [b"\0\0", b"\1\0", b"\0\1", b"\xff\xff", b"\xff\x7f", b"\x7f\xff", b"\0\x80", b"\x80\0"]
CT = Conversion("ct", "mr", (-1000.0, 1000.0), "fuzz", uuid.UUID(int=0))
MR = Conversion("mr", "ct", (-1000.0, 1000.0), "fuzz", uuid.UUID(int=0))


class Seed(NamedTuple):
    """A sound file, of which damaged ones are made."""

    kind: str
    path: pathlib.Path  # what is damaged
    conversion: Conversion = MR
    given: pathlib.Path | None = None  # the file that is read, where it is another


class Outcome(NamedTuple):
    """What a damaged file led to."""

    what: str  # "result", "line", "unforeseen line", or what must not be: "traceback", "hang", "crash", "memory"
    said: str
    seconds: float


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A damaged copy: some bytes changed, a field set to an extreme value, cut, a part repeated, left out or filled."""
    data, size = bytearray(content), len(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(min(size, HEADER) if rng.random() < 0.6 else size))
        length = int(min(size - at, 2 ** rng.integers(0, 12)))
        match int(rng.integers(7)):
            case 0:
                data[at] = rng.integers(256)
            case 1:
                data[at] ^= 1 << rng.integers(8)
            case 2:
                data[at : at + 2] = EXTREMES[rng.integers(len(EXTREMES))]
            case 3:
                data[at : at + 4] = 2 * EXTREMES[rng.integers(len(EXTREMES))]
            case 4:
                data = data[: max(at, 1)]
            case 5:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
            case _:
                data[at : at + length] = b"" if rng.random() < 0.5 else bytes([rng.integers(256)]) * length
        size = len(data)
        if not size:
            return b"\0"
    return bytes(data)


def attempt(path: pathlib.Path, conversion: Conversion) -> tuple[str, str]:
    """What becomes of a file, and what is said."""
    try:
        scan = read.read(path, conversion.source, LIMITS)
        slices = units.to_model(scan, conversion.source, conversion.window, (32, 32))
        assert slices.shape[1:] == (32, 32) and np.isfinite(slices).all(), "slices are not finite"
    except UserError as error:
        said = str(error)
        return ("unforeseen line" if said.startswith("cannot be read (") or "Error: " in said else "line"), said
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as `convert` does
            contents = scan.encode(conversion, np.zeros(scan.voxels.shape, np.float32), False)
        return "result", f"{len(contents)} files"
    except Exception as error:  # `convert` makes a line of it
        return "unforeseen line", f"cannot be written ({type(error).__name__}: {error})"


def worker(seed: Seed, first: int, count: int, replies: Any) -> None:
    """Reads damaged copies, and sends the number and outcome of each."""
    content = seed.path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for beside in seed.path.parent.iterdir():
            shutil.copy(beside, folder)
        damaged = pathlib.Path(folder, seed.path.name)
        given = pathlib.Path(folder, (seed.given or seed.path).name)
        before = 0.0
        for number in range(first, count):
            damaged.write_bytes(content if number == first else mutated(content, np.random.default_rng(number)))
            start = time.perf_counter()
            what, said = attempt(given, seed.conversion)
            memory = peak()
            before = before or memory  # after the sound file, whose libraries are then loaded
            if memory > before + MEMORY:
                what, said, before = "memory", f"{memory - before:.0f} MB more: {said}", memory
            replies.send((number, Outcome(what, said, time.perf_counter() - start), memory - before))


def peak() -> float:
    """MB of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def outcomes(seed: Seed, count: int) -> Iterator[tuple[int, Outcome, float]]:
    """Yields numbers, outcomes and MB of `count` copies; a process that hangs or ends is replaced."""
    context, first = multiprocessing.get_context("spawn"), 0
    while first < count:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=worker, args=(seed, first, count, there))
        process.start()
        there.close()
        try:
            while first < count:
                if not here.poll(SECONDS) and not here.poll(SECONDS):  # twice: both may have been stopped meanwhile
                    yield first, Outcome("hang", "", SECONDS), 0.0
                    first += 1
                    break
                yield here.recv()
                first += 1
        except EOFError:
            process.join()
            yield first, Outcome("crash", f"exit code {process.exitcode}", 0.0), 0.0
            first += 1
        process.kill()
        process.join()


def corpus(folder: pathlib.Path) -> list[Seed]:
    """Small sound files of each kind, each in a folder of its own."""
    return [Seed(kind, path, CT if modality == "ct" else MR, given) for kind, path, modality, given in write(folder)]


def table(seeds: Sequence[Seed], count: int) -> bool:
    """Prints a row for each kind, and the first of all that must not be; whether there was nothing of that."""
    sound = True
    print("| file | results | lines | unforeseen | slowest, ms | MB more |\n|---|---|---|---|---|---|")
    for seed in seeds:
        counts: Counter[str] = Counter()
        slowest = most = 0.0
        for number, outcome, memory in outcomes(seed, count):
            counts[outcome.what] += 1
            slowest, most = max(slowest, outcome.seconds), max(most, memory)
            if outcome.what not in ("result", "line", "unforeseen line"):
                print(f"{seed.kind}, mutation {number}: {outcome.what}: {outcome.said[:200]}", file=sys.stderr)
                sound = False
        row = (counts["result"], counts["line"], counts["unforeseen line"], f"{1e3 * slowest:.0f}", f"{most:.0f}")
        print("|", " | ".join(map(str, (seed.kind, *row))), "|", flush=True)
    return sound


def main() -> int:
    """Reads the command line; 1 where something happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="mutations of each file")
    parser.add_argument("--only", default="", help="files whose kind contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = [seed for seed in corpus(pathlib.Path(folder)) if options.only in seed.kind]
        return 0 if table(seeds, options.count) else 1


if __name__ == "__main__":
    sys.exit(main())
