"""Draws random configs: valid ones must train as the plain loop does, spoiled ones must be refused with one line.

python scripts/random_configs.py --valid 500 --invalid 500      about half an hour on two cores
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Callable
from functools import partial

TESTS = pathlib.Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS.parent), str(TESTS), *(str(TESTS / name) for name in ("fed", "tasks", "faults"))]

import conftest  # noqa: E402, F401  (sets up JAX as the tests do)
from drawn_configs import assert_trains_as_plain_loop, valid_configs  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis.strategies import SearchStrategy  # noqa: E402
from spoiled_configs import assert_refused_in_one_line, spoiled_configs  # noqa: E402

from fedjax_mri.core import programs  # noqa: E402


def main() -> int:
    """Prints how many configs behaved, and each that did not; returns 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--valid", type=int, default=500)
    parser.add_argument("--invalid", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    programs.xla_options = lambda: None  # type: ignore[assignment]  # they double the time to compile
    with tempfile.TemporaryDirectory() as folder:
        refused = partial(assert_refused_in_one_line, out=pathlib.Path(folder, "run"))
        wrong = try_each(valid_configs(), assert_trains_as_plain_loop, words.valid, words.seed)
        wrong += try_each(spoiled_configs(), refused, words.invalid, words.seed)
    return int(bool(wrong))


def try_each(configs: SearchStrategy, check: Callable, count: int, number: int) -> list[str]:
    """Returns a line for each of `count` drawn configs that `check` finds wrong, and prints it."""
    wrong, tried = list[str](), 0

    @settings(
        max_examples=max(count, 1),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(configs)
    def one(drawn: object) -> None:
        nonlocal tried
        tried += 1
        try:
            check(drawn)
        except Exception as error:  # whatever it is, the others are tried as well
            wrong.append(f"{drawn}: {type(error).__name__}: {' '.join(str(error).split())[:500]}")
            print(wrong[-1], flush=True)

    if count:
        one()
    print(f"{check.func.__name__ if isinstance(check, partial) else check.__name__}: {tried - len(wrong)} of {tried}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
