"""Early stopping: the best model is kept, and training ends when no better one has come for a while."""

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fedjax_mri.core import fields
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import VALIDATION
from fedjax_mri.run.line import GROUPS, RATES, LogEntry, flat

LARGER_IS_BETTER = {
    "accuracy", "auc", "cosine", "dice", "f1", "information", "ncc", "precision", "psnr", "recall", "ssim",
    "worst_decile",
}  # fmt: skip


@dataclass(frozen=True)
class Early:
    """Which evaluation is the best, whose checkpoint is kept in RUN/best; and how long to wait for a better one."""

    figure: str = ""  # of metrics.jsonl, such as "validation/cycle"; "": none is kept, and nothing stops early
    larger: bool | None = None  # whether larger is better; None: by the figure's name, as of accuracy or SSIM
    patience: int = 0  # evaluations without a better one, after which training ends; 0: it does not

    def __post_init__(self) -> None:
        fields.check(self, "early.")
        if self.patience < 0 or (self.patience and not self.figure):
            raise UserError(f"early.patience={self.patience}: must be 0 or more, and needs an early.figure")


def larger_is_better(early: Early) -> bool:
    """Returns whether a larger figure is better, as `early` says or as its name does: losses and errors are smaller."""
    words = early.figure.rpartition("/")[2].lower().split()
    return any(word in LARGER_IS_BETTER for word in words) if early.larger is None else early.larger


def best_line(early: Early, history: Sequence[LogEntry]) -> int:
    """Returns the place of the best line, the first of equals. Raises UserError where no line has the figure."""
    lines = [flat(line) for line in history]
    if not any(early.figure in line for line in lines):
        near = difflib.get_close_matches(early.figure, lines[-1], 3, 0.1)
        raise UserError(
            f"early.figure={early.figure}: not in metrics.jsonl; take one of its names, such as {', '.join(near)}"
        )
    sign = -1 if larger_is_better(early) else 1
    values = [sign * line.get(early.figure, float("nan")) for line in lines]
    return min(range(len(values)), key=lambda place: (math.isnan(values[place]), values[place]))


def refuse_unknown(early: Early, tests: Collection[str]) -> None:
    """Raises UserError, before anything is trained, where a figure can be of no test set and of no other group."""
    groups = (*tests, *GROUPS)
    if (
        early.figure
        and not early.figure.startswith(tuple(f"{group}/" for group in groups))
        and early.figure not in RATES
    ):
        raise UserError(f"early.figure={early.figure}: begin it with one of {', '.join(f'{name}/' for name in groups)}")


def last_is_best(early: Early, history: Sequence[LogEntry]) -> bool:
    """Returns whether the last line is better than all lines before it."""
    return bool(early.figure) and best_line(early, history) == len(history) - 1


def patience_is_over(early: Early, history: Sequence[LogEntry]) -> bool:
    """Returns whether `early` has a patience and the best line is that many lines old."""
    return early.patience > 0 and len(history) - 1 - best_line(early, history) >= early.patience


def leak(early: Early, tests: Collection[str]) -> str:
    """Returns a warning where `early` chooses by a test set, given the names of all of them; else an empty string."""
    others = [name for name in tests if name != VALIDATION and early.figure.startswith(f"{name}/")]
    if not others:
        return ""
    figure = early.figure.removeprefix(max(others, key=len))
    remedy = f"take {VALIDATION}{figure}" if VALIDATION in tests else "hold back some training data for validation"
    return f"early.figure={early.figure} chooses the model by a test set, whose figures then flatter: {remedy}"
