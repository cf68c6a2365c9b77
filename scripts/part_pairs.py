"""Trains two rounds with every pair of parts that can be chosen by name, and prints which run and which are refused.

    python scripts/part_pairs.py --raw pairs.jsonl
    python scripts/part_pairs.py --raw pairs.jsonl --parts attack uplink.reduce

A pair is an attack and a rule, a compressor and an algorithm, and so on, each with its defaults but for the flags in
`NEEDED`. It trains ten small clients to a finite model, or to one that is not finite, with which a run would end, or it
is refused with one line; anything else is a fault. Lines are added to the file of --raw, and what it holds already is
not tried again.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import numpy as np

from fedjax_mri.core import programs, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import check_simulation, initial_state
from fedjax_mri.run import config, parts
from fedjax_mri.run.assemble import assemble, build_federation, describe
from fedjax_mri.run.config import Experiment

CLIENTS, EXAMPLES, ROUNDS = 10, 12, 2
PARTS = [name for name in parts.PARTS if name not in ("data", "task.network")]
NEEDED = {  # part and name -> flags without which its defaults do not fit ten clients
    ("uplink.reduce", "foolsgold"): ("--uplink.reduce.clients", str(CLIENTS)),
    ("sampling", "uniform"): ("--sampling.cohort", "8"),
    ("privacy", "patient"): ("--privacy.unit", "image"),
}


def main() -> int:
    """Prints the counts and each fault; returns 1 where there is one."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--raw", type=pathlib.Path, required=True, help="file of lines, which is read and added to")
    words.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="pairs of these alone")
    given = words.parse_args()
    given.raw.touch()
    lines = [json.loads(text) for text in given.raw.read_text(encoding="utf-8").splitlines()]
    tried = {tuple(line["flags"]) for line in lines}
    programs.xla_options = lambda: None  # type: ignore[assignment]  # they double the time to compile
    with tempfile.TemporaryDirectory() as folder, given.raw.open("a", encoding="utf-8") as file:
        base = small_config(pathlib.Path(folder))
        for flags in pairs(given.parts):
            if flags not in tried:
                lines.append({"flags": flags, **outcome(base, flags)})
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
    print(Counter(line["outcome"] for line in lines))
    faults = [line for line in lines if line["outcome"] == "fault"]
    print(*(f"{' '.join(line['flags'])}: {line['line']}" for line in faults), sep="\n")
    return int(bool(faults))


def small_config(folder: pathlib.Path) -> Experiment:
    """Returns a classifier of two classes of small images, which ten hospitals have."""
    random = np.random.default_rng(0)
    labels = np.arange(CLIENTS * EXAMPLES) % 2
    images = random.normal(0, 40, (len(labels), 8, 8)) + 60 + 100 * labels[:, None, None]
    np.savez(
        folder / "images.npz",
        images=np.clip(images, 0, 255).astype(np.uint8),
        labels=labels,
        sites=np.repeat([f"site {number}" for number in range(CLIENTS)], EXAMPLES),
    )
    arrays = config.load(pathlib.Path(__file__).parents[1] / "configs" / "arrays.py")[""]
    path = ("--data.path", str(folder / "images.npz"))
    flags = ("--fed.task.network", "linear", "--local.batch", "6", "--local.epochs", "1", "--rounds", str(ROUNDS))
    return config.override(arrays, (*path, *flags, "--fed.sampling", "everyone"))


def pairs(chosen: list[str]) -> Iterator[tuple[str, ...]]:
    """Yields the flags of each pair of two kinds of parts."""
    named = {part: list(parts.settings(part)) for part in chosen}
    for first, second in itertools.combinations(chosen, 2):
        for a, b in itertools.product(named[first], named[second]):
            rule = ("--fed.uplink.reduce", "trimmedmean") if "uplink.before" in (first, second) else ()
            needed = (*NEEDED.get((first, a), ()), *NEEDED.get((second, b), ()))
            yield (*rule, f"--fed.{first}", a, f"--fed.{second}", b, *needed)


def outcome(base: Experiment, flags: tuple[str, ...]) -> dict[str, str]:
    """Returns whether a pair "runs", is "not finite", "refused" or a "fault", and the line that says why."""
    try:
        model = trained(config.override(base, flags))
    except UserError as refusal:
        line = str(refusal)
        return {"outcome": "refused" if "\n" not in line and len(line) > 20 else "fault", "line": line}
    except Exception as error:  # whatever it is, the other pairs are tried as well
        return {"outcome": "fault", "line": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finite = np.isfinite(model).all()
    return {"outcome": "runs" if finite else "not finite", "line": ""}


def trained(settings: Experiment) -> np.ndarray:
    """Returns the parameters of the server's model after some rounds, as one vector."""
    federation, plan = build_federation(settings), Plan(devices=1, lanes=2, conv="xla").resolve()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sim = assemble(settings, describe(federation), federation.train, plan)
    check_simulation(sim, plan)
    root = jax.random.key(0)
    state = initial_state(sim, plan, root)
    after, *_ = segments.build(sim, plan, root, ROUNDS)(state, ROUNDS)
    params = jax.device_get(after.server.model.params)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]) if trees.count(params) else np.zeros(1)


if __name__ == "__main__":
    sys.exit(main())
