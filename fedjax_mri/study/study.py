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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.core.fields import Seed, checked_value
from fedjax_mri.run import config as configs
from fedjax_mri.run.config import Experiment

Path = str | tuple[str, ...]  # dotted; several: linked fields
Values = Iterable[Any] | Mapping[str, Any]  # of linked fields: tuples; in a mapping: by name
Axes = Mapping[Path, Values]
Draw = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Study:
    """A base experiment and the axes along which it is varied; a study file defines one as `study`."""

    base: Experiment
    axes: Axes = field(default_factory=dict)


class Cell(NamedTuple):
    """One experiment of a study."""

    id: str  # names its config
    config: Experiment
    where: dict[str, Any]  # axis -> its value there, a number or a few words


def log_range(low: float, high: float, count: int) -> tuple[float, ...]:
    """Returns `count` values from `low` to `high` whose neighbours have the same ratio."""
    return tuple(float(f"{value:.4g}") for value in np.geomspace(low, high, count))


def random(count: int, seed: int, axes: Mapping[str, Draw | Sequence[Any]]) -> dict[Path, Values]:
    """Returns axes that change together through `count` random draws, each from a distribution below or from a list.

    Of equal draws one is kept.
    """
    checked_value("random: seed", seed, Seed)
    rng = np.random.default_rng(seed)
    draws = [one if callable(one) else choice(*one) for one in axes.values()]
    drawn = [tuple(draw(rng) for draw in draws) for _ in range(count)]
    return {tuple(axes): [one for place, one in enumerate(drawn) if one not in drawn[:place]]}


def uniform(low: float, high: float) -> Draw:
    """Returns what draws a number between `low` and `high`, all equally likely."""
    return lambda rng: float(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
    """Returns what draws a number between `low` and `high` whose logarithm is uniform."""
    return lambda rng: float(np.exp(rng.uniform(np.log(low), np.log(high))))


def choice(*values: Any) -> Draw:
    """Returns what draws one of the values, all equally likely."""
    return lambda rng: values[rng.integers(len(values))]


def load(path: pathlib.Path) -> Study:
    """Returns the study that a Python file defines. Raises UserError where it defines none."""
    study = configs.definitions(path).get("study")
    if not isinstance(study, Study):
        raise UserError(f"{path}: must define `study = Study(base=Experiment(...), axes={{...}})`")
    return study


def cells(study: Study) -> list[Cell]:
    """Returns all of a study's experiments.

    Raises UserError on an axis that is empty or has no field, and on equal cells.
    """
    axes = [_axis_values(path, values) for path, values in study.axes.items()]
    found = [_cell(study.base, chosen) for chosen in itertools.product(*axes)]
    first: dict[str, Cell] = {}
    for cell in found:
        same = first.setdefault(cell.id, cell)
        if same is not cell:
            raise UserError(f"study: {describe(same)} and {describe(cell)} are one experiment: take one of them out")
    return found


def describe(cell: Cell) -> str:
    """Returns a cell's values on the axes, in words."""
    return ", ".join(f"{axis} {value}" for axis, value in cell.where.items()) or "the base"


class _AxisValue(NamedTuple):
    """One value of an axis."""

    fields: dict[str, Any]  # path -> what it sets there
    where: dict[str, Any]  # axis -> what it is called


def _axis_values(path: Path, values: Values) -> list[_AxisValue]:
    """Returns all values of an axis. Raises UserError where there are none."""
    pairs = list(values.items()) if isinstance(values, Mapping) else [(None, value) for value in values]
    if not pairs:
        raise UserError(f"axes: {_axis(path)!r} has no values: give at least one")
    fields = [_fields(path, value) for _, value in pairs]
    labels = [labels_of([one[path] for one in fields]) for path in fields[0]]
    called = [dict(zip(fields[0], one)) for one in zip(*labels)]
    return [
        _AxisValue(one, where if name is None else {_axis(path): name})
        for one, where, (name, _) in zip(fields, called, pairs)
    ]


def _fields(path: Path, value: Any) -> dict[str, Any]:
    """Returns what one value of an axis sets, by path."""
    paths, linked = ((path,), (value,)) if isinstance(path, str) else (path, value)
    if not isinstance(linked, tuple | list) or len(linked) != len(paths):
        raise UserError(f"axes: {_axis(path)!r} changes {len(paths)} fields at once: {value!r} is no tuple of as many")
    return {path: one.item() if isinstance(one, np.generic) else one for path, one in zip(paths, linked)}


def _axis(path: Path) -> str:
    return path if isinstance(path, str) else " + ".join(path)


def _cell(base: Experiment, chosen: Sequence[_AxisValue]) -> Cell:
    """Returns the cell of one value of each axis."""
    config, where = base, dict[str, Any]()
    for one in chosen:
        for path, value in one.fields.items():
            config = _set(config, path, value)
        where |= one.where
    return Cell(configs.digest(config), config, where)


def _set(config: Experiment, path: str, value: Any) -> Experiment:
    known = configs.flat(config)
    if path not in known:
        near = difflib.get_close_matches(path, list(known), 1, 0.3)
        raise UserError(f"axes: unknown field {path!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    whole = isinstance(known[path], float) and isinstance(value, int) and not isinstance(value, bool)
    return configs.with_field(config, path, float(value) if whole else value)


def labels_of(values: Sequence[Any]) -> list[Any]:
    """Returns what the values of an axis are called: settings also by each field in which others of their class differ.

    FedProx(mu=0.01) is called so beside FedProx(mu=1.0), though 0.01 is the default.
    """
    settings = [one for one in values if dataclasses.is_dataclass(one)]

    def varied(value: Any) -> set[str]:
        alike = [one for one in settings if type(one) is type(value)]
        names = [one.name for one in dataclasses.fields(value)] if alike else []
        return {name for name in names if any(getattr(one, name) != getattr(value, name) for one in alike)}

    return [label(value, varied(value)) for value in values]


def label(value: Any, shown: Collection[str] = ()) -> Any:
    """Returns what a value is called.

    A number is called by its value, settings by their name and what is not default, other values by their repr. The
    fields `shown` of settings are named even if they are default.
    """
    if isinstance(value, bool | int | float | str):
        return value
    if not dataclasses.is_dataclass(value):
        return repr(value)
    given = (
        f"{one.name}={label(getattr(value, one.name))}"
        for one in dataclasses.fields(value)
        if one.name in shown or _differs(value, one)
    )
    return type(value).__name__ + (f"({', '.join(inside)})" if (inside := list(given)) else "")


def _differs(settings: Any, one: dataclasses.Field[Any]) -> bool:
    default = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
    return bool(getattr(settings, one.name) != default)
