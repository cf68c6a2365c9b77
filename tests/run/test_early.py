"""Early stopping: what is best, and when it is enough."""

import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.run.early import Early, best, enough, is_best


def lines(*values: float) -> list[dict[str, float]]:
    return [{"round": float(number), "test/cycle": value} for number, value in enumerate(values)]


def test_the_first_of_equals_is_best_and_what_is_not_a_number_never() -> None:
    smaller, larger = Early("test/cycle"), Early("test/cycle", larger=True)
    assert best(smaller, lines(3, 1, 2, 1)) == 1
    assert best(larger, lines(3, 1, 2, 3)) == 0
    assert best(smaller, lines(float("nan"), 2, float("nan"))) == 1
    assert best(smaller, [{"round": 0.0}, *lines(2)]) == 1
    assert [is_best(smaller, lines(3, 1, 2)[: n + 1]) for n in range(3)] == [True, True, False]


def test_patience_counts_evaluations_since_the_best() -> None:
    history = lines(3, 1, 2, 2)
    assert [enough(Early("test/cycle", patience=n), history) for n in (1, 2, 3)] == [True, True, False]
    assert not enough(Early("test/cycle"), history) and not is_best(Early(), history)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"early.figure=test/cyle: not among round, test/cycle"):
        best(Early("test/cyle"), lines(1))
    with pytest.raises(UserError, match=r"early.patience=2: must be 0 or more, and needs an early.figure"):
        Early(patience=2)
