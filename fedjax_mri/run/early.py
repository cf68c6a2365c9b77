"""Early stopping: the best model is kept, and training ends when no better one has come for a while."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedjax_mri.core.errors import UserError

History = Sequence[Mapping[str, float]]  # a line an evaluation, as in metrics.jsonl


@dataclass(frozen=True)
class Early:
    """Which evaluation is the best; its checkpoint is kept in RUN/best."""

    figure: str = ""  # of metrics.jsonl, such as "unseen sites/cycle"; "": none is kept, and nothing stops early
    larger: bool = False  # larger is better
    patience: int = 0  # evaluations without a better one, after which training ends; 0: it does not

    def __post_init__(self) -> None:
        if self.patience < 0 or (self.patience and not self.figure):
            raise UserError(f"early.patience={self.patience}: must be 0 or more, and needs an early.figure")


def best(early: Early, history: History) -> int:
    """Which line of the history is the best, the first of equals. Raises UserError where it lacks the figure."""
    lines = [line for line in history if early.figure in line]
    if not lines:
        raise UserError(f"early.figure={early.figure}: not among {', '.join(sorted(history[-1]))}")
    values = [line.get(early.figure, float("nan")) * (-1 if early.larger else 1) for line in history]
    return min(range(len(values)), key=lambda number: (values[number] != values[number], values[number]))


def is_best(early: Early, history: History) -> bool:
    """Whether the last line is better than all before."""
    return bool(early.figure) and best(early, history) == len(history) - 1


def enough(early: Early, history: History) -> bool:
    """Whether the best line is `patience` lines old."""
    return early.patience > 0 and len(history) - 1 - best(early, history) >= early.patience
