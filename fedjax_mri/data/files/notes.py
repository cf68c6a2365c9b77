"""Notes on files, said once each: the first file that a sentence holds for, and at the end how many more there were."""

from collections import Counter
from collections.abc import Callable, Iterable


def say_new(say: Callable[[str], None], title: str, notes: Iterable[str], said: Counter[str]) -> None:
    """Says those of a file's notes that were not said yet, and counts all in `said`."""
    for note in notes:
        if not said[note]:
            say(f"{title}: {note}")
        said[note] += 1


def say_more(say: Callable[[str], None], said: Counter[str]) -> None:
    """Says how many more files each note held for."""
    for note, times in said.items():
        if times > 1:
            say(f"{times - 1} more: {note}")
