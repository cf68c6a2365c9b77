"""Early stopping: what is best, and when it is enough."""

import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.run.early import Early, best_line, larger_is_better, last_is_best, leak, patience_is_over
from fedjax_mri.run.line import LogEntry, TestFigures


def lines(*values: float) -> list[LogEntry]:
    return [LogEntry(number, {"test": TestFigures({"cycle": value})}) for number, value in enumerate(values)]


def test_the_first_of_equals_is_best_and_what_is_not_a_number_never() -> None:
    smaller, larger = Early("test/cycle"), Early("test/cycle", larger=True)
    assert best_line(smaller, lines(3, 1, 2, 1)) == 1
    assert best_line(larger, lines(3, 1, 2, 3)) == 0
    for figure, wanted in (
        ("accuracy", True),
        ("mr/ssim", True),
        ("mr/lesion Dice", True),
        ("nll", False),
        ("mae HU", False),
    ):
        assert larger_is_better(Early(f"test/{figure}")) is wanted
    assert larger_is_better(Early("test/mine", larger=True)) and not larger_is_better(Early("test/f1", larger=False))
    assert best_line(smaller, lines(float("nan"), 2, float("nan"))) == 1
    assert best_line(smaller, [LogEntry(0, {}), *lines(2)]) == 1
    assert [last_is_best(smaller, lines(3, 1, 2)[: n + 1]) for n in range(3)] == [True, True, False]


def test_patience_counts_evaluations_since_the_best() -> None:
    history = lines(3, 1, 2, 2)
    assert [patience_is_over(Early("test/cycle", patience=n), history) for n in (1, 2, 3)] == [True, True, False]
    assert not patience_is_over(Early("test/cycle"), history) and not last_is_best(Early(), history)


def test_mistakes_are_named() -> None:
    with pytest.raises(
        UserError, match=r"early.figure=test/cyle: not in metrics.jsonl; take one of its names, such as test/cycle"
    ):
        best_line(Early("test/cyle"), lines(1))
    with pytest.raises(UserError, match=r"early.patience=2: must be 0 or more, and needs an early.figure"):
        Early(patience=2)


@pytest.mark.parametrize("figure", ["", "train/nll", "validation/cycle", "validation/mr/ssim"])
def test_a_choice_without_test_images_needs_no_warning(figure) -> None:
    assert not leak(Early(figure), ["new sites", "validation"])


def test_a_choice_by_a_test_set_is_warned_of_with_the_remedy() -> None:
    tests = ["new", "new/sites", "validation"]
    assert "flatter: take validation/mr/ssim" in leak(Early("new/sites/mr/ssim"), tests)
    assert "hold back some training data" in leak(Early("new/nll"), tests[:1])
