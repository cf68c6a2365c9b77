"""A study: one base experiment, and axes along which it is varied.

    study = Study(
        base=Experiment(...),
        axes={
            "algorithm": [FedAvg(), FedAvg(server_rate=1.5)],
            "local.learning_rate": log_range(1e-3, 1e-1, 5),
            ("data.clients", "sampling.cohort"): [(10, 5), (100, 50)],  # linked: they change together
            "seed": range(5),
        },
    )

Its cells are all combinations. `random` gives axes that are drawn. Values that are long to say get names in a dict.
"""

import dataclasses
import difflib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import config as configs
from fedjax_mri.run.config import Experiment

Path = str | tuple[str, ...]  # dotted; several: linked fields
Values = Iterable[Any] | Mapping[str, Any]  # of linked fields: tuples; in a mapping: by name
Axes = Mapping[Path, Values]
Draw = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Study:
    """What a study file defines as `study`."""

    base: Experiment
    axes: Axes = field(default_factory=dict)


class Cell(NamedTuple):
    """One experiment of a study."""

    id: str  # names its config
    config: Experiment
    where: dict[str, Any]  # axis -> its value there, a number or a few words


def grid(*values: Any) -> tuple[Any, ...]:
    """The given values."""
    return values


def log_range(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` values from `low` to `high` whose neighbours have the same ratio."""
    return tuple(float(f"{value:.4g}") for value in np.geomspace(low, high, count))


def random(count: int, seed: int, axes: Mapping[str, Draw | Sequence[Any]]) -> dict[Path, Values]:
    """Axes that change together, `count` times drawn: from a distribution below, or of a list any."""
    rng = np.random.default_rng(seed)
    draws = [one if callable(one) else choice(*one) for one in axes.values()]
    drawn = [tuple(draw(rng) for draw in draws) for _ in range(count)]
    return {tuple(axes): [one for place, one in enumerate(drawn) if one not in drawn[:place]]}


def uniform(low: float, high: float) -> Draw:
    """A number between."""
    return lambda rng: float(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
    """A number between whose logarithm is uniform."""
    return lambda rng: float(np.exp(rng.uniform(np.log(low), np.log(high))))


def choice(*values: Any) -> Draw:
    """Any of the values."""
    return lambda rng: values[rng.integers(len(values))]


def load(path: pathlib.Path) -> Study:
    """The study that a Python file defines. Raises UserError where there is none."""
    study = configs.definitions(path).get("study")
    if not isinstance(study, Study):
        raise UserError(f"{path}: must define `study = Study(base=Experiment(...), axes={{...}})`")
    return study


def cells(study: Study) -> list[Cell]:
    """All of a study's experiments. Raises UserError on an axis that is empty or has no field, and on equal cells."""
    steps = [_steps(path, values) for path, values in study.axes.items()]
    found = [_cell(study.base, taken) for taken in itertools.product(*steps)]
    first: dict[str, Cell] = {}
    for cell in found:
        same = first.setdefault(cell.id, cell)
        if same is not cell:
            raise UserError(f"study: {words(same)} and {words(cell)} are one experiment: take one of them out")
    return found


def words(cell: Cell) -> str:
    """Where a cell lies."""
    return ", ".join(f"{axis} {value}" for axis, value in cell.where.items()) or "the base"


class _Step(NamedTuple):
    fields: dict[str, Any]  # path -> value
    where: dict[str, Any]  # axis -> what to call the value


def _steps(path: Path, values: Values) -> list[_Step]:
    """What each value of an axis sets, and how it is called."""
    pairs = list(values.items()) if isinstance(values, Mapping) else [(None, value) for value in values]
    if not pairs:
        raise UserError(f"axes: {_axis(path)!r} has no values: give at least one")
    return [_step(path, name, value) for name, value in pairs]


def _step(path: Path, name: str | None, value: Any) -> _Step:
    paths, linked = ((path,), (value,)) if isinstance(path, str) else (path, value)
    if not isinstance(linked, tuple | list) or len(linked) != len(paths):
        raise UserError(f"axes: {_axis(path)!r} changes {len(paths)} fields at once: {value!r} is no tuple of as many")
    fields = {path: _plain(one) for path, one in zip(paths, linked)}
    return _Step(fields, {p: label(v) for p, v in fields.items()} if name is None else {_axis(path): name})


def _axis(path: Path) -> str:
    return path if isinstance(path, str) else " + ".join(path)


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _cell(base: Experiment, taken: Sequence[_Step]) -> Cell:
    config, where = base, dict[str, Any]()
    for step in taken:
        for path, value in step.fields.items():
            config = _set(config, path, value)
        where |= step.where
    return Cell(configs.digest(config), config, where)


def _set(config: Experiment, path: str, value: Any) -> Experiment:
    known = configs.flat(config)
    if path not in known:
        near = difflib.get_close_matches(path, list(known), 1, 0.3)
        raise UserError(f"axes: unknown field {path!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    whole = isinstance(known[path], float) and isinstance(value, int) and not isinstance(value, bool)
    return configs.put(config, path, float(value) if whole else value)


def label(value: Any) -> Any:
    """A number as it is; settings by name, with what differs from their defaults; anything else in its own words."""
    if isinstance(value, bool | int | float | str):
        return value
    if not dataclasses.is_dataclass(value):
        return repr(value)
    given = (
        f"{one.name}={label(getattr(value, one.name))}" for one in dataclasses.fields(value) if _differs(value, one)
    )
    return type(value).__name__ + (f"({', '.join(inside)})" if (inside := list(given)) else "")


def _differs(settings: Any, one: dataclasses.Field[Any]) -> bool:
    default = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
    return bool(getattr(settings, one.name) != default)
