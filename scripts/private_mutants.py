"""Plants known mistakes of private training one by one, runs the tests, and prints who notices: a table for the docs.

    python scripts/private_mutants.py

Each mistake is a change of the source in a copy of the project. It counts as noticed if a test fails.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

HOME = pathlib.Path(__file__).parents[1]
PRIVACY = "fedjax_mri/fed/privacy/"
CLIENT, PATIENT = "tests/fed/test_privacy.py", "tests/fed/test_patient.py"


class Mistake(NamedTuple):
    """A change of one file, and the tests that should notice it."""

    what: str
    file: str
    right: str
    wrong: str
    tests: str  # arguments of pytest


MISTAKES = (
    Mistake(
        "the noise of a sum is added to the mean",
        PRIVACY + "mechanism.py",
        "s + deviation * n,",
        "s + deviation * n / at.expected_weight,",
        CLIENT,
    ),
    Mistake(
        "an update is weighted by its examples after the clip",
        PRIVACY + "mechanism.py",
        "jnp.tensordot(weight, d, 1)",
        "jnp.tensordot(9.0 * weight, d, 1)",
        CLIENT,
    ),
    Mistake(
        "the sum is divided by the number of patients who came",
        PRIVACY + "per_patient.py",
        "expected = batch[EXPECTED][0]",
        'expected = jnp.maximum(batch["weight"].sum(), 1.0) / views',
        "tests/fed/test_engine.py -k patients",
    ),
    Mistake(
        "each round adds the same noise",
        PRIVACY + "mechanism.py",
        "normal_like(jax.random.fold_in(at.key, 0), total.delta)",
        "normal_like(jax.random.key(0), total.delta)",
        CLIENT,
    ),
    Mistake(
        "every device adds the noise",
        PRIVACY + "mechanism.py",
        'return Reduce("private sum", zero, add, finish, init=init, linear=True)',
        "def merge(total: Total, axis: str) -> Total:\n"
        "        return jax.lax.psum(total._replace(delta=trees.add(total.delta, normal_like(jax.random.key(1), "
        "total.delta))), axis)\n\n"
        '    return Reduce("private sum", zero, add, finish, init=init, linear=True, merge=merge)',
        CLIENT,
    ),
    Mistake(
        "gradients are summed over devices before the clip",
        "fedjax_mri/fed/engine/lanes.py",
        "check_vma=False",
        "check_vma=True",
        CLIENT,
    ),
    Mistake(
        "the gradient of a patient is not clipped",
        PRIVACY + "per_patient.py",
        "scaled = trees.scale(clip / jnp.maximum(norm, clip), grads)",
        "scaled = grads",
        PATIENT,
    ),
    Mistake(
        "each image of a patient is clipped by itself",
        PRIVACY + "patient.py",
        'self.unit == "patient"\n',
        "False\n",
        PATIENT,
    ),
    Mistake(
        "any way of sampling is accounted as Poisson's",
        PRIVACY + "client.py",
        'if sampler.law == "poisson":',
        "if True:",
        CLIENT,
    ),
    Mistake(
        "running statistics are released without noise",
        PRIVACY + "mechanism.py",
        "if jax.tree.leaves(parts.sent.delta.carry):",
        "if False:",
        CLIENT,
    ),
    Mistake(
        "a run goes on with the noise of fewer rounds",
        "fedjax_mri/run/identity.py",
        'found = before.get("privacy", {}).get("noise") == 0',
        "found = False",
        "tests/run/test_private_run.py",
    ),
    Mistake(
        "an update that is not finite passes the clip",
        PRIVACY + "mechanism.py",
        "finite = jnp.isfinite(norm)",
        "finite = jnp.array(True)",
        CLIENT,
    ),
    Mistake(
        "a round without clients releases nothing",
        PRIVACY + "client.py",
        'empty_round="release"',
        'empty_round="skip"',
        CLIENT,
    ),
    Mistake(
        "rounds are accounted, and not the local steps in them",
        PRIVACY + "patient.py",
        "participations(sampler, population) * np.asarray(population.steps)",
        "participations(sampler, population)",
        PATIENT,
    ),
    Mistake(
        "half of the noise is added, so that the true epsilon is larger than the reported one",
        PRIVACY + "mechanism.py",
        "deviation = beside_count(noise, count_noise) if quantile else noise",
        "deviation = noise / 2",
        "tests/fed/test_canaries.py",
    ),
)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--only", type=int, nargs="*", help="numbers of mistakes, from 1")
    chosen = words.parse_args().only or range(1, len(MISTAKES) + 1)
    print("| mistake | noticed by |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "copy"
        shutil.copytree(HOME, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", ".peers", ".jax_cache"))
        (copy / ".jax_cache").symlink_to(HOME / ".jax_cache")
        for number in chosen:
            print(f"| {MISTAKES[number - 1].what} | {noticed(copy, MISTAKES[number - 1])} |", flush=True)


def noticed(copy: pathlib.Path, mistake: Mistake) -> str:
    """Returns the first test that fails with a mistake in the copy, or "nobody"; the copy is as before afterwards."""
    path = copy / mistake.file
    before = path.read_text(encoding="utf-8")
    if before.count(mistake.right) != 1:
        sys.exit(f"{mistake.file}: {mistake.right!r} is not there once: bring this script up to date")
    path.write_text(before.replace(mistake.right, mistake.wrong), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *mistake.tests.split()]
    done = subprocess.run(command, cwd=copy, env=environment(copy), capture_output=True, text=True)
    path.write_text(before, encoding="utf-8")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return "`" + failed[0].split(" - ")[0].split("::")[-1] + "`" if failed else "nobody"


def environment(copy: pathlib.Path) -> dict[str, str]:
    """Returns the environment in which the copy is imported in place of what is installed."""
    return {**os.environ, "PYTHONPATH": str(copy)}


if __name__ == "__main__":
    main()
