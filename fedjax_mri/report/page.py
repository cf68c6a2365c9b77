"""The page of a report: a Jinja template, filled and written to one HTML file."""

import functools
import importlib.resources
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from fedjax_mri.core import disk

LONGEST = 200  # rows of a table, at most


def publish(path: Path, **content: Any) -> Path:
    """Fills the template with the content, writes the page to `path`, and returns the path."""
    empty: dict[str, Any] = {"warnings": [], "comparison": None, "runs": [], "parts": [], "maker": "fedjax-mri report"}
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, _template().render(**(empty | content)))
    return path


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "numeric": is_numeric, "indented": lambda tree: list(indented(tree))}
    environment.globals |= {"LONGEST": LONGEST}
    return environment.from_string(importlib.resources.files(__package__).joinpath("report.html").read_text("utf-8"))


def number(value: Any) -> str:
    """Returns the text of a table's cell: shares get three digits, large numbers fewer, and nan is a dash."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 10):
        return f"{value:,.0f}"
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def is_numeric(rows: Sequence[Sequence[Any]], column: int) -> bool:
    """Returns whether all cells of a column are numbers, which the page aligns to the right."""
    return all(re.fullmatch(r"[-\d.,–% ]+|inf", number(row[column])) for row in rows)


def indented(tree: dict[str, Any], depth: int = 0) -> Iterator[tuple[int, str, Any]]:
    """Yields depth, name and value of every entry of a nested dict; a dict within it has the value ""."""
    for name, value in tree.items():
        branch = isinstance(value, dict) and bool(value)
        yield depth, str(name), "" if branch else value
        if branch:
            yield from indented(value, depth + 1)
