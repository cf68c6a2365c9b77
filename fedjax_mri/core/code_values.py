"""The parts of a value: what a digest is made of.

`parts` has a rule for each type. The parts of an instance of any other class are the class and the state. A value
whose state is neither visible to Python nor can be pickled is Unknown.
"""

import collections
import enum
import functools
import hashlib
import pathlib
import re
import threading
import types
import typing
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive

from fedjax_mri.core import code_installed as installed

Parts = Iterator[Any]

NOT_READ = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__", "_abc_impl"}
LARGEST = 2**30  # bytes; the values of a larger array are not read


class Unknown(Exception):
    """Raised when an object cannot be inspected."""


@functools.singledispatch
def parts(x: Any) -> Parts:
    """Returns the parts of an object: its class and state, unless its type has a rule below. Raises Unknown."""
    kind = type(x)
    if isinstance(x, jax.Array):
        return array_parts(x)
    if kind.__module__ == "typing" or isinstance(x, jax.Device):
        return stable_repr(x)
    slots = [name for base in kind.__mro__ for name, value in vars(base).items() if is_slot(value)]
    pointers = len(slots) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    if kind.__itemsize__ or kind.__basicsize__ > object.__basicsize__ + pointers * np.intp().itemsize:
        return pickled_parts(x)
    slot_values = {name: getattr(x, name) for name in slots if hasattr(x, name)}
    return iter(("instance", kind, *sorted_items(slot_values), *own_attributes(x)))


def is_slot(value: Any) -> bool:
    """Returns whether an attribute of a class is one of its `__slots__`."""
    return isinstance(value, types.MemberDescriptorType)


def pickled_parts(x: Any) -> Parts:
    """Returns what an object is pickled as, for classes that an installed package defines in C. Raises Unknown."""
    kind = type(x)
    if not installed.installed_name(kind) or kind.__reduce__ is object.__reduce__:
        raise Unknown(f"{kind} keeps state that Python cannot see")
    try:
        return iter(("pickled", kind, x.__reduce__()))
    except Exception as error:
        raise Unknown(f"{kind}: {error}") from error


def own_attributes(x: Any) -> Parts:
    """Returns names and values of an object's own attributes."""
    return sorted_items(getattr(x, "__dict__", {}))


def sorted_items(named: typing.Mapping[str, Any]) -> Parts:
    """Returns names and values, sorted by name, without those that cannot change what an object does."""
    return ((name, named[name]) for name in sorted(named) if name not in NOT_READ)


def stable_repr(x: Any) -> Parts:
    """Returns type and `repr` of an object. Raises Unknown if the `repr` holds a memory address."""
    words = repr(x)
    if " at 0x" in words:
        raise Unknown(words)
    return iter((type(x).__qualname__, words))


def array_parts(x: jax.Array) -> Parts:
    """Returns the values of an array. Raises Unknown for tracers and for values on other hosts."""
    if isinstance(x, jax.core.Tracer) or not x.is_fully_addressable:
        raise Unknown("an array whose values are not known in this process")
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return iter(("keys", str(jax.random.key_impl(x)), np.asarray(jax.random.key_data(x))))
    return iter(("jax", np.asarray(x)))


@parts.register(np.ndarray)
@parts.register(np.generic)
def _(x: Any) -> Parts:
    if x.nbytes > LARGEST:
        raise Unknown(f"an array of {x.nbytes} bytes")
    values = tuple(x.ravel().tolist()) if x.dtype.hasobject else hashlib.sha256(x.tobytes()).hexdigest()
    return iter(("array", type(x).__name__, x.dtype, x.shape, values))


@parts.register(np.dtype)
@parts.register(range)
@parts.register(slice)
@parts.register(types.GenericAlias)
@parts.register(types.UnionType)
@parts.register(jax.tree_util.PyTreeDef)
@parts.register(pathlib.PurePath)
def _(x: Any) -> Parts:
    return stable_repr(x)


@parts.register(int)
@parts.register(float)
@parts.register(complex)
@parts.register(str)
@parts.register(bytes)
@parts.register(bytearray)
def _(x: Any) -> Parts:
    base: Any = next(base for base in type(x).__mro__ if base in (int, float, complex, str, bytes, bytearray))
    return iter(("value", type(x), base.__repr__(x), *own_attributes(x)))


@parts.register(tuple)
@parts.register(list)
@parts.register(collections.deque)
def _(x: Any) -> Parts:
    return iter(("sequence", type(x), *x, *own_attributes(x)))


@parts.register(dict)
@parts.register(types.MappingProxyType)
def _(x: Any) -> Parts:
    return iter(("dict", type(x), getattr(x, "default_factory", None), *dict(x).items(), *own_attributes(x)))


@parts.register(enum.Enum)
def _(x: enum.Enum) -> Parts:
    return iter(("member", type(x), x.name))


@parts.register(type(threading.Lock()))
@parts.register(type(threading.RLock()))
def _(x: Any) -> Parts:
    return iter(("lock",))


@parts.register(re.Pattern)
def _(x: Any) -> Parts:
    return iter(("pattern", x.pattern, x.flags))


@parts.register(np.ufunc)
def _(x: np.ufunc) -> Parts:
    if "vectorized" in x.__name__:
        raise Unknown("a Python function behind np.frompyfunc")
    return iter(("ufunc", x.__name__))


@parts.register(Primitive)
def _(x: Primitive) -> Parts:
    return iter(("primitive", x.name))
