"""A digest of built objects and of all the code they reach: where two are equal, the objects do the same.

Objects are walked as a graph. Plain values count by what they are, all others by what they consist of: a function by
its bytecode, its defaults, its closure and the values of the globals that it names; a class by its attributes and
bases; an instance by its class and its state. What an installed package has defined counts by its name and its
package's release, a function of it by its bytecode too. What cannot be looked into has no digest.
"""

import dis
import enum
import functools
import hashlib
import importlib.util
import sys
import types
import weakref
from collections.abc import Mapping, Set
from typing import Any

import jax
from jax._src import tree_util

from fedjax_mri.core import code_installed as installed
from fedjax_mri.core.code_values import Parts, Unknown, own_attributes, parts, sorted_items

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
IMPORT = dis.opmap["IMPORT_NAME"]
METHODS = (types.FunctionType, property, staticmethod, classmethod)
FLATTENED: Mapping[type, Any] = getattr(tree_util, "_registry", {})  # JAX's: class -> how it is flattened
REMEMBERED = weakref.WeakKeyDictionary[Any, str]()  # of functions that remember, what they reached at first


def digest(*roots: Any) -> str | None:
    """A name of `roots` and all they reach, the same in every process; None where something cannot be known."""
    try:
        return digest_of(roots)
    except Exception:  # whatever an unknown object raises when it is looked at: it is not worth a run
        return None


def digest_of(roots: Any) -> str:
    """The digest of an object. Raises Unknown.

    Each object is numbered when it is first met, and then described by its parts' values and numbers, so that cycles
    end.
    """
    numbers, met = dict[int, int](), list[Any]()  # `met` also keeps alive what is made on the way: ids stay unique

    def word(x: Any) -> str:
        if type(x) in PLAIN:
            return f"{type(x).__name__} {x!r},"
        if type(x) is tuple:
            return f"({''.join(map(word, x))}),"
        if id(x) not in numbers:
            numbers[id(x)] = len(met)
            met.append(x)
        return f"#{numbers[id(x)]},"

    whole = hashlib.sha256(word(roots).encode("utf-8", "backslashreplace"))
    for one in met:  # grows meanwhile
        whole.update(f"\n{''.join(map(word, parts_of(one)))}".encode("utf-8", "backslashreplace"))
    return whole.hexdigest()


def parts_of(x: Any) -> Parts:
    """The parts of an object, or its name where an installed package has defined it. Raises Unknown."""
    name = installed.installed_name(x)
    if name is None:
        return parts(x)
    return iter(("installed", name, *map(code_parts, installed.code_objects(x))))


@parts.register(set)
@parts.register(frozenset)
def _(x: Any) -> Parts:
    return iter(("set", type(x), *sorted(map(digest_of, x))))


@parts.register
def _(x: types.FunctionType) -> Parts:
    """Globals count where the function is not installed: those of installed ones are their package's."""
    yield from ("function", code_parts(x.__code__), x.__defaults__, *sorted_items(x.__kwdefaults__ or {}))
    yield from map(cell_value, x.__closure__ or ())
    yield from own_attributes(x)
    if not installed.is_installed_file(x.__code__.co_filename):
        names = names_in_code(x.__code__)
        yield from values_named(x.__globals__, names, set())
        yield from imports(x, x.__code__, names)
        builtins = getattr(x, "__builtins__", {})
        replaced = {name for name in names & builtins.keys() if not installed.installed_name(builtins[name])}
        yield from ((name, builtins[name]) for name in sorted(replaced))


def code_parts(code: types.CodeType) -> tuple[Any, ...]:
    """All of a code object but where it stands in its file."""
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_name, counts, names, code.co_code, code.co_exceptiontable, constant_parts(code.co_consts))


def constant_parts(x: Any) -> Any:
    """A constant of a code object, by plain values and tuples alone: equal ones may be one object or several."""
    if isinstance(x, types.CodeType):
        return code_parts(x)
    if isinstance(x, frozenset):
        return ("frozenset", *sorted(repr(one) for one in x))
    return tuple(map(constant_parts, x)) if isinstance(x, tuple) else x


def cell_value(cell: types.CellType) -> Any:
    """The value of a closure's variable."""
    try:
        return ("cell", cell.cell_contents)
    except ValueError:
        return "empty cell"


def names_in_code(code: types.CodeType) -> Set[str]:
    """All names and all strings in a code object: what it may look up, by `getattr` or as a global."""
    inner = [names_in_code(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return {*code.co_names, *(one for one in code.co_consts if isinstance(one, str))}.union(*inner)


def values_named(values: Mapping[str, Any], names: Set[str], seen: set[int]) -> Parts:
    """Name and value of all among `values` that has one of `names`; of a module, what has one of them there."""
    for name in sorted(names & values.keys()):
        value = values[name]
        if not isinstance(value, types.ModuleType):
            yield name, value
        elif id(value) not in seen:
            seen.add(id(value))
            theirs = vars(value) if not installed.is_installed_module(value.__name__) else Unopened(vars(value))
            yield from values_named(theirs, names, seen)


class Unopened(dict[str, Any]):
    """What an installed module defines. Of its objects that are no functions and no values only the type counts, and
    of their methods the name: the state of NumPy's random numbers is another in every process."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, types.BuiltinFunctionType | types.MethodType) and installed.installed_name(
            type(value.__self__)
        ):
            return value.__qualname__, getattr(value, "__func__", None)
        told = type(value) in PLAIN or callable(value) or isinstance(value, types.ModuleType)
        return value if told or not installed.installed_name(type(value)) else type(value)


def imports(x: types.FunctionType, code: types.CodeType, names: Set[str]) -> Parts:
    """What a function may use of the modules that it imports when it is called. Raises Unknown where one is neither
    installed nor in use yet."""
    if IMPORT in code.co_code[::2]:
        steps = list(dis.get_instructions(code))
        for place, step in enumerate(steps):
            if step.opcode == IMPORT:
                level, wanted = (one.argval for one in steps[place - 2 : place])
                name = importlib.util.resolve_name("." * level + step.argval, x.__globals__.get("__package__"))
                yield from imported(name, wanted or (), names)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from imports(x, inner, names)


def imported(name: str, wanted: tuple[str, ...], names: Set[str]) -> Parts:
    """What `names` may mean in a module, of which `wanted` are imported. Raises Unknown where it is not in use."""
    if installed.is_importable(name):
        yield "import", name, wanted
    elif name in sys.modules and all(hasattr(sys.modules[name], one) for one in wanted):
        top = name.partition(".")[0]
        yield from values_named({one: sys.modules[one] for one in (top, name)}, names | {top, name}, set())
    else:
        raise Unknown(f"{name}: not imported yet")


@parts.register
def _(x: type) -> Parts:
    """What JAX flattens instances to counts as well."""
    yield from ("class", x.__qualname__, type(x), x.__bases__, FLATTENED.get(x))
    if issubclass(x, enum.Enum):
        yield from ((one.name, one._value_) for one in x)
        yield from sorted_items({name: one for name, one in vars(x).items() if isinstance(one, METHODS)})
    else:
        yield from sorted_items(vars(x))


@parts.register
def _(x: types.ModuleType) -> Parts:
    """A module that somebody holds: all that it defines."""
    if installed.is_installed_module(x.__name__):
        return iter(("module", x.__name__, installed.release_of(x.__name__)))
    return iter(("module", *sorted_items({name: one for name, one in vars(x).items() if not name.startswith("__")})))


@parts.register
def _(x: types.MethodType) -> Parts:
    return iter(("method", x.__func__, x.__self__))


@parts.register
def _(x: types.BuiltinFunctionType) -> Parts:
    owner = x.__self__
    return iter(("builtin", x.__module__, x.__qualname__, None if isinstance(owner, types.ModuleType) else owner))


@parts.register(types.MethodDescriptorType)
@parts.register(types.ClassMethodDescriptorType)
@parts.register(types.WrapperDescriptorType)
@parts.register(types.GetSetDescriptorType)
@parts.register(types.MemberDescriptorType)
def _(x: Any) -> Parts:
    return iter(("slot", x.__objclass__, x.__name__))


@parts.register
def _(x: types.MethodWrapperType) -> Parts:
    return iter(("method", x.__name__, x.__self__))


@parts.register(staticmethod)
@parts.register(classmethod)
def _(x: Any) -> Parts:
    return iter((type(x).__name__, x.__func__))


@parts.register
def _(x: property) -> Parts:
    return iter(("property", x.fget, x.fset, x.fdel))


@parts.register(functools.cached_property)
def _(x: Any) -> Parts:
    return iter(("cached property", x.func))


@parts.register
def _(x: functools.partial) -> Parts:
    return iter(("partial", x.func, x.args, x.keywords, *own_attributes(x)))


@parts.register(type(jax.jit(lambda: 0)))
@parts.register(functools._lru_cache_wrapper)
def _(x: Any) -> Parts:
    """What such a function has traced or computed before is taken again, even if its globals have changed since: then
    nobody knows what it will do."""
    inner = x.__wrapped__
    if isinstance(inner, types.FunctionType) and installed.is_foreign(inner):
        now = digest_of(inner)
        if REMEMBERED.setdefault(x, now) != now:
            raise Unknown(f"{inner}: what it reaches has changed since it was last looked at")
    return iter((type(x).__name__, inner))


@parts.register
def _(x: weakref.ReferenceType) -> Parts:
    return iter(("weak", x()))


@parts.register(weakref.WeakKeyDictionary)
@parts.register(weakref.WeakValueDictionary)
@parts.register(weakref.WeakSet)
def _(x: Any) -> Parts:
    raise Unknown("what a weak collection holds changes by itself")
