"""Fields of settings: what each holds is checked against its annotation, in this one place.

Settings are frozen dataclasses of plain data: numbers, text, True, False, None, and tuples and settings of these.
"""

import dataclasses
import functools
import math
import pathlib
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError, is_concrete

Kind = Any  # an annotation, or a Section

WORDS = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text", type(None): "None"}
SEVERAL = {
    "True or False": "values True or False",
    "a whole number": "whole numbers",
    "a finite number": "finite numbers",
    "text": "texts",
}
SIMPLE = {"bool": bool, "int": int, "float": float, "str": str}
INVALID = object()  # what `coerce` gives for a value that its annotation does not admit


class IntRange(NamedTuple):
    """Limits of a whole number, in its annotation."""

    low: int
    high: int


Seed = Annotated[int, IntRange(0, 2**32 - 1)]  # JAX and NumPy's older generators take no others as different seeds


class Section(NamedTuple):
    """The annotation of a field that holds settings of any class that can be built, such as an algorithm's."""

    example: str  # how such settings are written, in a few words


def checked_value(name: str, value: Any, kind: Kind) -> Any:
    """Returns a value as plain data. Raises UserError unless an annotation, such as Seed, admits it."""
    found = coerce(name, value, kind)
    if found is INVALID:
        raise UserError(f"{name}={in_few_words(value)}: must be {describe_kind(kind)}{remedy(value, kind)}")
    return found


def check(settings: Any, prefix: str = "") -> None:
    """Raises UserError where a field of `settings` does not hold what its annotation says; see `plain`."""
    plain(settings, prefix)


def checked(settings: Any) -> Any:
    """Returns `settings` with every field as plain data, as `plain` says. Raises UserError as it does."""
    changed = plain(settings)
    return dataclasses.replace(settings, **changed) if changed else settings


def plain(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the fields of `settings` that must change to be plain data, by name; names in messages get the `prefix`.

    Numbers of NumPy become Python's, lists tuples, and paths text; a whole number in a field of floats stays one.
    Tracers, which stand for numbers in a sweep's program, pass. Raises UserError, naming the field, its value and what
    is expected, where a value is not of the kind that its annotation says.
    """
    each = kinds(type(settings))  # type: ignore[arg-type]
    found = {name: checked_value(prefix + name, getattr(settings, name), kind) for name, kind in each.items()}
    return {name: value for name, value in found.items() if value is not getattr(settings, name)}


@functools.cache
def kinds(settings: Any) -> dict[str, Kind]:
    """Returns the annotation of each field of a dataclass; a Section where `Any` has a default that can be built."""
    try:
        hints = typing.get_type_hints(settings, include_extras=True)
    except Exception:  # annotations as text, with names that cannot be found
        hints = {one.name: SIMPLE.get(str(one.type), Any) for one in dataclasses.fields(settings)}
    return {one.name: section(one, hints[one.name]) for one in dataclasses.fields(settings) if one.init}


def section(one: dataclasses.Field[Any], hint: Any) -> Kind:
    """Returns the annotation `hint` of a field, or the Section that it stands for."""
    default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
    return Section(f"such as {type(default).__name__}()") if hint is Any and buildable(default) else hint


def buildable(value: Any) -> bool:
    """Returns whether a value is settings that can be built."""
    return not isinstance(value, type) and dataclasses.is_dataclass(value) and callable(getattr(value, "build", None))


def coerce(name: str, value: Any, kind: Kind) -> Any:
    """Returns `value` as plain data if an annotation admits it, and INVALID otherwise.

    Raises UserError where a field of settings in it does not fit; `name` is what the value itself is called.
    """
    if not is_concrete(value):
        return value
    if section_words(kind):
        return coerce_settings(name, value) if buildable(value) else INVALID
    if typing.get_origin(kind) is typing.Annotated:
        base, *limits = typing.get_args(kind)
        found = coerce(name, value, base)
        inside = all(
            one.low <= found <= one.high for one in limits if isinstance(one, IntRange) and found is not INVALID
        )
        return found if inside else INVALID
    if options := union(kind):
        return next((found for one in options if (found := coerce(name, value, one)) is not INVALID), INVALID)
    if typing.get_origin(kind) is Literal:
        return next((one for one in typing.get_args(kind) if type(one) is type(value) and one == value), INVALID)
    if (items := item_kinds(kind, value)) is not None:
        return coerce_items(name, value, items)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return coerce_settings(name, value) if isinstance(value, kind) else INVALID
    return coerce_scalar(value, kind) if kind in WORDS else coerce_any(name, value)


def section_words(kind: Kind) -> str:
    """Returns what settings a Section, or a protocol such as that of data sources, admits; "" for other annotations."""
    if isinstance(kind, Section):
        return kind.example
    return f"of a {kind.__name__}" if getattr(kind, "_is_protocol", False) else ""


def union(kind: Kind) -> tuple[Kind, ...]:
    """Returns the members of a union, None first; () for any other annotation."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return ()
    return tuple(sorted(typing.get_args(kind), key=lambda one: one is not type(None)))


def item_kinds(kind: Kind, items: Any) -> Sequence[Kind] | None:
    """Returns the annotation of each of the `items` of a tuple; None where the annotation is of no tuple.

    If it is of a tuple, but `items` are none, the annotations are those of a tuple of one item.
    """
    origin, given = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin not in (tuple, list, Sequence):
        return None
    if origin is tuple and given and given[-1] is not Ellipsis:
        return given
    return [given[0] if given else Any] * (len(items) if isinstance(items, tuple | list) else 1)


def coerce_items(name: str, value: Any, items: Sequence[Kind]) -> Any:
    """Returns a tuple or a list as a tuple of plain data, and INVALID where one of its items does not fit."""
    if not isinstance(value, tuple | list) or len(value) != len(items):
        return INVALID
    found = [coerce(f"{name}.{place}", one, kind) for place, (one, kind) in enumerate(zip(value, items))]
    if any(one is INVALID for one in found):
        return INVALID
    same = isinstance(value, tuple) and all(one is given for one, given in zip(found, value))
    return value if same else tuple(found)


def coerce_settings(name: str, value: Any) -> Any:
    """Returns settings as plain data. Raises UserError where a field does not fit, or fields could be assigned to."""
    if not value.__dataclass_params__.frozen:
        raise UserError(
            f"{name}={in_few_words(value)}: settings must not change: give the class @dataclass(frozen=True)"
        )
    changed = plain(value, f"{name}.")
    return dataclasses.replace(value, **changed) if changed else value


def coerce_scalar(value: Any, kind: type) -> Any:
    """Returns a number, text or None as Python's own, and INVALID where the annotation does not admit it."""
    if isinstance(value, np.generic) or (getattr(value, "shape", None) == () and hasattr(value, "item")):
        value = value.item()
    if kind is float and type(value) in (int, float):
        return value if math.isfinite(value) else INVALID
    if kind is str and isinstance(value, str | pathlib.PurePath):
        return value if type(value) is str else str(value)
    return value if type(value) is kind else INVALID


def coerce_any(name: str, value: Any) -> Any:
    """Returns a value as plain data, whatever its kind, and INVALID where it cannot be that."""
    if isinstance(value, tuple | list):
        return coerce_items(name, value, [Any] * len(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return coerce_settings(name, value)
    return next((found for one in WORDS if (found := coerce_scalar(value, one)) is not INVALID), INVALID)


def describe_kind(kind: Kind) -> str:
    """Returns in words what an annotation admits."""
    if section := section_words(kind):
        return f"settings with `build`, {section}"
    if typing.get_origin(kind) is typing.Annotated:
        base, *limits = typing.get_args(kind)
        return describe_kind(base) + "".join(
            f" from {one.low} to {one.high}" for one in limits if isinstance(one, IntRange)
        )
    if options := union(kind):
        return " or ".join(describe_kind(one) for one in sorted(options, key=lambda one: one is type(None)))
    if typing.get_origin(kind) is Literal:
        options = typing.get_args(kind)
        return ("one of " if len(options) > 1 else "") + ", ".join(map(str, options))
    if (items := item_kinds(kind, None)) is not None:
        each = [describe_kind(one) for one in items]
        fixed = typing.get_origin(kind) is tuple and typing.get_args(kind)[-1] is not Ellipsis
        return (
            f"a tuple ({', '.join(each)})" if fixed else f"a tuple of {SEVERAL.get(each[0], f'values, each {each[0]}')}"
        )
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return f"settings {kind.__name__}(...)"
    return WORDS.get(kind, "plain data: numbers, text, True, False, None, settings, or tuples of these")


def in_few_words(value: Any) -> str:
    """Returns a value in a few words."""
    if (callable(value) and not dataclasses.is_dataclass(value)) or isinstance(value, type):
        return getattr(value, "__name__", type(value).__name__)
    if is_array(value):
        return f"{value.dtype} {list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def remedy(value: Any, kind: Kind) -> str:
    """Returns what a value is instead, and what to write, for the end of a message."""
    if isinstance(value, type):
        return f", not a class: write {value.__name__}()"
    if is_array(value):
        return ", not an array: make or read arrays in `build`"
    if callable(value) and not dataclasses.is_dataclass(value):
        return f', not a function: give its path as text, such as "{import_path(value)}"'
    if isinstance(value, Mapping | set | frozenset):
        return f", not a {type(value).__name__}: give a tuple of pairs, or settings"
    if isinstance(value, str):
        return ", not text" if typing.get_origin(kind) is not Literal else ""
    if section_words(kind) and callable(getattr(value, "build", None)):
        return f": give the class {type(value).__name__} @dataclass(frozen=True)"
    return f"; {type(value).__name__} has no `build`" if section_words(kind) and dataclasses.is_dataclass(value) else ""


def is_array(value: Any) -> bool:
    """Returns whether a value is an array of more than one number."""
    return hasattr(value, "dtype") and bool(getattr(value, "shape", ()))


def import_path(function: Any) -> str:
    """Returns a path by which a function can be imported, the shortest if there are several."""
    name, module = getattr(function, "__qualname__", "name"), getattr(function, "__module__", None) or "module"
    top = module.partition(".")[0]
    return f"{top if getattr(sys.modules.get(top), name, None) is function else module}.{name}"
