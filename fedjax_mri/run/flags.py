"""Flags such as `--local.learning-rate 0.1`, which change fields of a config; each is read as its annotation says."""

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from fedjax_mri.core import dotted, fields
from fedjax_mri.core.errors import UserError
from fedjax_mri.core.fields import INVALID, Kind
from fedjax_mri.run import parts

NUMBER = re.compile(r"-(\d|\.\d|inf|nan)", re.I)  # what starts with a dash and is no flag
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Flag(NamedTuple):
    """A flag as it was typed."""

    name: str  # without dashes before it
    words: list[str]  # what follows it


class Field(NamedTuple):
    """A field that flags can change."""

    value: Any  # its present one
    kind: Kind


def apply(config: Any, given: Sequence[str]) -> Any:
    """Returns settings with the fields changed that `--section.field value` flags name.

    Raises UserError, naming the flag, its value and what is expected, or the nearest field.
    """
    found = {name: Field(value, kind) for name, value, kind in dotted.annotations(config)}
    changes = dict(change(config, found, flag) for flag in split(given))
    return fields.checked(dotted.with_values(config, changes)) if changes else config


def split(given: Sequence[str]) -> list[Flag]:
    """Returns what was typed as flags with the words that follow each. Raises UserError on a word that follows none."""
    flags = list[Flag]()
    for word in given:
        if word.startswith("-") and not NUMBER.match(word):
            name, equals, value = word.partition("=")
            flags.append(Flag(name.removeprefix("--"), [value] if equals else []))
        elif flags:
            flags[-1].words.append(word)
        else:
            raise UserError(f"unexpected {word!r}: fields are set by --section.field value")
    return flags


def change(config: Any, known: Mapping[str, Field], flag: Flag) -> tuple[str, Any]:
    """Returns the field that a flag names, and its new value. Raises UserError as `apply` does."""
    name, words = flag.name.replace("-", "_"), flag.words
    section, _, last = name.rpartition(".")
    off = f"{section}.{last.removeprefix('no_')}".removeprefix(".") if last.startswith("no_") else ""
    if name not in known and off in known and known[off].kind is bool and not words:
        return off, False
    if name not in known:
        raise UserError(f"unknown field --{flag.name}{hint(known, name)}")
    field = known[name]
    if name in parts.PARTS:
        raise UserError(f"--{' '.join([flag.name, *words])}: choose it by --fed.{name} {' '.join(words) or 'NAME'}")
    if dotted.is_section(field.value):
        raise UserError(f"--{' '.join([flag.name, *words])}: is a section; {what_it_has(known, name)}")
    kind = kind_of(field.value) if field.kind is Any else field.kind
    value = True if kind is bool and not words else read(words, kind)
    if value is INVALID or fields.coerce(name, value, kind) is INVALID:
        said = f"--{' '.join([flag.name, *words])}"
        several = ", separated by spaces" if fields.item_kinds(kind, None) is not None else ""
        wanted = fields.describe_kind(kind).removeprefix("a tuple of ")
        raise UserError(f"{said}: {'must be' if words else 'needs'} {wanted}{several}")
    return name, value


def kind_of(value: Any) -> Kind:
    """Returns the annotation that fits the present value of a field without one."""
    if isinstance(value, tuple):
        return tuple[kind_of(value[0]) if value else str, ...]  # type: ignore[misc]
    return str if value is None else type(value)


def read(words: Sequence[str], kind: Kind) -> Any:
    """Returns the value that words stand for, read as an annotation says, and INVALID where they stand for none."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is Annotated:
        return read(words, inner[0])
    if origin in (typing.Union, types.UnionType):
        options = (read(words, one) for one in fields.union(kind))
        return next((value for value in options if value is not INVALID), INVALID)
    if origin in (tuple, list, Sequence):
        return read_items(words, inner or (str, ...))
    return read_word(words[0], kind) if len(words) == 1 else INVALID


def read_items(words: Sequence[str], items: Sequence[Kind]) -> Any:
    """Returns the tuple that words stand for; `items` are the annotations within the brackets of the tuple's."""
    if items[0] in (int, float):  # 3,7 is 3 7
        words = [number for word in words for number in word.split(",")]
    if len(items) != 2 or items[1] is not Ellipsis:
        each, kinds = [[word] for word in words], list(items)
    else:
        width = len(typing.get_args(items[0])) if typing.get_origin(items[0]) is tuple else 1
        each = [list(words[start : start + width]) for start in range(0, len(words), width)]
        kinds = [items[0]] * len(each)
    values = tuple(map(read, each, kinds))
    return INVALID if len(each) != len(kinds) or any(value is INVALID for value in values) else values


def read_word(word: str, kind: Kind) -> Any:
    """Returns the value that one word stands for, and INVALID where it stands for none."""
    if typing.get_origin(kind) is Literal:
        return next((one for one in typing.get_args(kind) if str(one) == word), INVALID)
    if kind is bool:
        return TRUTH.get(word.lower(), INVALID)
    if kind is type(None):
        return None if word == "None" else INVALID
    try:
        return kind(word) if kind in (int, float, str) else INVALID
    except ValueError:
        return INVALID


def hint(known: Mapping[str, Field], name: str) -> str:
    """Returns the field nearest to an unknown `name`, or those of its section, for the end of a message."""
    leaves = [one for one, field in known.items() if not dotted.is_section(field.value)]
    lasts = dict[str, str]()
    for one in leaves:
        lasts.setdefault(one.rpartition(".")[2], one)
    last, section = name.rpartition(".")[2], name.rpartition(".")[0]
    near = difflib.get_close_matches(name, leaves, 1, 0.75)
    if not near and section not in parts.PARTS:  # a field of a part that was not chosen is no other field misspelt
        near = [lasts[one] for one in difflib.get_close_matches(last, lasts, 1, 0.75)]
    if near:
        return f"; did you mean --{near[0].replace('_', '-')}?"
    if section in known:
        return f"; {what_it_has(known, section)}"
    sections = [one for one, field in known.items() if dotted.is_section(field.value)]
    near = difflib.get_close_matches(section, sections, 1, 0.75) if section else []
    return hint(known, f"{near[0]}.{last}") if near else "; see `fedjax-mri show`"


def what_it_has(known: Mapping[str, Field], section: str) -> str:
    """Returns the fields of a section in words."""
    names = [one for one, field in known.items() if one.rpartition(".")[0] == section]
    each = ", ".join(f"--{name.replace('_', '-')}" for name in names)
    remedy = f"; to choose another, give --fed.{section} NAME first" if section in parts.PARTS else ""
    return f"{section} has {each or 'no fields'}{remedy}"
