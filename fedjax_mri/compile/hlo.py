"""Reads the text of a program that XLA has compiled: its computations, and the operations of each in order."""

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

# Bytes of an element by the name of its type.
WIDTHS = {"pred": 1, "bf16": 2, "s4": 0.5, "u4": 0.5, "token": 0}
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
LINE = re.compile(r"^ +(?:ROOT )?%?([\w.\-]+) = ")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = ("calls", "to_apply", "body", "branch_computations", "true_computation", "false_computation")


class Array(NamedTuple):
    """The type of an array."""

    dtype: str
    shape: tuple[int, ...]
    layout: str  # between its braces: order of dimensions, tiles, memory space

    @property
    def bytes(self) -> float:
        """Returns the bytes that it takes in the device's main memory, with the padding of its tiles.

        An array in memory space 1, the scratch memory of a TPU, takes none.
        """
        if "S(1)" in self.layout or "S(2)" in self.layout:
            return 0.0
        return self.width * prod(self.padded())

    @property
    def payload(self) -> float:
        """Returns the bytes of its elements, wherever they are."""
        return self.width * prod(self.shape)

    @property
    def width(self) -> float:
        """Returns the bytes of an element."""
        digits = re.search(r"\d+", self.dtype)
        return WIDTHS.get(self.dtype, int(digits[0]) / 8 if digits else 4)

    def padded(self) -> list[int]:
        """Returns the sides from the slowest to the fastest dimension, rounded up to whole tiles."""
        order, _, rest = self.layout.partition(":")
        minor_first = [int(number) for number in order.split(",") if number] or list(range(len(self.shape)))[::-1]
        sides = [self.shape[axis] for axis in minor_first[::-1]]
        tile = re.search(r"T\(([\d,]+)\)", rest)
        for back, side in enumerate(reversed(tile[1].split(",") if tile else []), 1):
            if back <= len(sides):
                sides[-back] = -(-sides[-back] // int(side)) * int(side)
        return sides


class Operation(NamedTuple):
    """One line of a computation."""

    name: str
    kind: str  # "fusion", "dot", "while", ...
    results: tuple[Array, ...]
    operands: tuple[str, ...]  # names of operations of the same computation
    attributes: str  # the rest of the line
    argument: str  # between the parentheses, as it stands

    def attribute(self, name: str) -> str:
        """Returns the value of an attribute such as `dim_labels`, without braces; empty if it has none."""
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|([^ ,]+))", self.attributes)
        return (found[1] or found[2] or "") if found else ""

    def called(self) -> list[str]:
        """Returns the names of the computations that it calls."""
        text = " ".join(self.attribute(name) for name in CALLED)
        return NAME.findall(text)

    @property
    def scope(self) -> str:
        """Returns the name that the traced program gave it, such as "jit(f)/lanes/while"."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def trips(self) -> int | None:
        """Returns how often a loop runs, where the compiler knows it."""
        found = re.search(r'known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(found[1]) if found else None

    @property
    def cycles(self) -> float:
        """Returns the clock cycles that the compiler for TPUs expects; 0 where it says nothing."""
        found = re.search(r'estimated_cycles":"(\d+)"', self.attributes)
        return float(found[1]) if found and int(found[1]) < 2**62 else 0.0


Computation = Mapping[str, Operation]  # by name, in the order in which they run


class Program(NamedTuple):
    """The computations of a compiled program, and the one with which it begins."""

    computations: Mapping[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """Returns the program that `text` describes, as `jax.stages.Compiled.as_text` gives it."""
    computations, entry, current = dict[str, dict[str, Operation]](), "", dict[str, Operation]()
    for line in text.splitlines():
        if head := HEAD.match(line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif found := LINE.match(line):
            operation = _operation(found[1], line[found.end() :])
            current[operation.name] = operation
    return Program(computations, entry)


def _operation(name: str, rest: str) -> Operation:
    """Returns an operation from what follows " = " in its line."""
    types, rest = _split_type(rest)
    kind, _, rest = rest.partition("(")
    end = _closing(rest)
    inside = rest[:end]
    return Operation(name, kind, tuple(arrays(types)), tuple(NAME.findall(inside)), rest[end + 1 :], inside)


def _split_type(text: str) -> tuple[str, str]:
    """Returns the type at the beginning of `text`, and what follows it."""
    end = _closing(text[1:]) + 2 if text.startswith("(") else text.index(" ")
    return text[:end], text[end:].lstrip()


def _closing(text: str) -> int:
    """Returns where the parenthesis that was opened before `text` is closed."""
    depth = 1
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def arrays(types: str) -> Iterator[Array]:
    """Yields the arrays of a type, which may be a tuple."""
    for dtype, sides, layout in ARRAY.findall(types):
        yield Array(dtype, tuple(int(side) for side in sides.split(",") if side), layout)
