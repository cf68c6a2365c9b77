"""Fields of nested settings by their dotted names, such as local.learning_rate or uplink.stages.0.bound."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from fedjax_mri.core.errors import UserError
from fedjax_mri.core.fields import Kind, kinds


def children(section: Any) -> dict[str, Any]:
    """Returns the fields of settings, or the items of a tuple by their place; nothing for other values."""
    if isinstance(section, tuple):
        return {str(place): value for place, value in enumerate(section)}
    if not dataclasses.is_dataclass(section):
        return {}
    return {one.name: getattr(section, one.name) for one in dataclasses.fields(section)}


def is_section(value: Any) -> bool:
    """Returns whether a value is settings, or a tuple of settings."""
    if isinstance(value, tuple):
        return any(dataclasses.is_dataclass(one) for one in value)
    return dataclasses.is_dataclass(value)


def annotations(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Kind]]:
    """Yields dotted name, value and annotation of each field of nested settings, of those that are sections as well."""
    known = kinds(type(settings)) if dataclasses.is_dataclass(settings) else {}  # type: ignore[arg-type]
    for name, value in children(settings).items():
        yield prefix + name, value, known.get(name, Any)
        if is_section(value):
            yield from annotations(value, f"{prefix}{name}.")


def with_values(settings: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns `settings` with other values in the fields of dotted names. Raises UserError where there is no field."""
    if "" in changes:
        return changes[""]
    there, inner = children(settings), dict[str, dict[str, Any]]()
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        if name not in there:
            raise UserError(f"unknown field {prefix}{path}")
        inner.setdefault(name, {})[rest] = value
    found = {name: with_values(there[name], some, f"{prefix}{name}.") for name, some in inner.items()}
    if isinstance(settings, tuple):
        return tuple((there | found).values())
    return dataclasses.replace(settings, **found)
