"""A digest of objects and of all the code they reach. Objects with equal digests behave the same.

The objects are walked as a graph. A plain value enters the digest as itself. Any other object enters as its parts: a
function as its bytecode, defaults, closure and the globals that it names; a class as its attributes and bases; an
instance as its class and state. An object that an installed package defines enters as its name and the package's
release, and a function of such a package with its bytecode as well. An object that cannot be inspected has no digest.
"""

import dis
import enum
import functools
import hashlib
import importlib.util
import random
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
PYTREE_RULES: Mapping[type, Any] = getattr(tree_util, "_registry", {})  # class -> how JAX flattens it
FIRST_DIGESTS = weakref.WeakKeyDictionary[Any, str]()  # caching function -> digest of what it wraps, when first seen


def digest(*roots: Any) -> str | None:
    """Returns the digest of `roots` and all they reach, equal in all processes; None if a part cannot be inspected."""
    try:
        return digest_of(roots)
    except Exception:  # inspecting an unknown object may raise anything, and that must not end a run
        return None


def digest_of(roots: Any) -> str:
    """Returns the digest of an object. Raises Unknown if a part of it cannot be inspected.

    Each object gets a number when it is first seen and is then described by the values and numbers of its parts, so
    that cycles end.
    """
    numbers, objects = dict[int, int](), list[Any]()  # `objects` also keeps parts alive, so that their ids stay unique

    def word(x: Any) -> str:
        if type(x) in PLAIN:
            return f"{type(x).__name__} {x!r},"
        if type(x) is tuple:
            return f"({''.join(map(word, x))}),"
        if id(x) not in numbers:
            numbers[id(x)] = len(objects)
            objects.append(x)
        return f"#{numbers[id(x)]},"

    whole = hashlib.sha256(word(roots).encode("utf-8", "backslashreplace"))
    for x in objects:  # grows while it is read
        whole.update(f"\n{''.join(map(word, parts_of(x)))}".encode("utf-8", "backslashreplace"))
    return whole.hexdigest()


def parts_of(x: Any) -> Parts:
    """Returns the parts of an object, or its name and code if an installed package defines it. Raises Unknown."""
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
    """The globals are parts only if the function is not installed; the package's release covers those of the others."""
    yield from ("function", code_parts(x.__code__), x.__defaults__, *sorted_items(x.__kwdefaults__ or {}))
    yield from map(cell_value, x.__closure__ or ())
    yield from own_attributes(x)
    if not installed.is_installed_file(x.__code__.co_filename):
        names = names_in_code(x.__code__)
        refuse_outside_values(x, names)
        yield from values_named(x.__globals__, names, set())
        yield from imports(x, x.__code__, names)
        builtins = getattr(x, "__builtins__", {})
        replaced = {name for name in names & builtins.keys() if not installed.installed_name(builtins[name])}
        yield from ((name, builtins[name]) for name in sorted(replaced))


def refuse_outside_values(function: types.FunctionType, names: Set[str]) -> None:
    """Raises Unknown where a user's function reads the environment or Python's random state when it is traced.

    The code of this package reads the environment too, but not in what is traced.
    """
    outside = {"environ", "getenv"} & names
    if function.__globals__.get("random") is random:
        outside |= {"random"} & names
    if outside and not installed.is_own_file(function.__code__.co_filename):
        raise Unknown(f"{function.__qualname__} reads {', '.join(sorted(outside))}")


def code_parts(code: types.CodeType) -> tuple[Any, ...]:
    """Returns all of a code object except its place in the file."""
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_name, counts, names, code.co_code, code.co_exceptiontable, constant_parts(code.co_consts))


def constant_parts(x: Any) -> Any:
    """Returns a constant as plain values and tuples, since equal constants may be one object or several."""
    if isinstance(x, types.CodeType):
        return code_parts(x)
    if isinstance(x, frozenset):
        return ("frozenset", *sorted(map(repr, x)))
    return tuple(map(constant_parts, x)) if isinstance(x, tuple) else x


def cell_value(cell: types.CellType) -> Any:
    """Returns the value of a variable in a closure."""
    try:
        return ("cell", cell.cell_contents)
    except ValueError:
        return "empty cell"


def names_in_code(code: types.CodeType) -> Set[str]:
    """Returns all names and strings in a code object: what it may look up as a global or by `getattr`."""
    inner = [names_in_code(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return {*code.co_names, *(constant for constant in code.co_consts if isinstance(constant, str))}.union(*inner)


def values_named(values: Mapping[str, Any], names: Set[str], seen: set[int]) -> Parts:
    """Yields name and value of each of `values` with one of `names`; for a module, those of its attributes."""
    for name in sorted(names & values.keys()):
        value = values[name]
        if not isinstance(value, types.ModuleType):
            yield name, value
        elif id(value) not in seen:
            seen.add(id(value))
            is_installed = installed.is_installed_module(value.__name__)
            attributes = InstalledNamespace(vars(value)) if is_installed else vars(value)
            yield from values_named(attributes, names, seen)


class InstalledNamespace(dict[str, Any]):
    """The attributes of an installed module, without the state of its objects.

    An object that is neither a plain value nor callable is replaced by its type, and a method of such an object by its
    name: the state of NumPy's random generator, for one, differs between processes.
    """

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, types.BuiltinFunctionType | types.MethodType) and installed.installed_name(
            type(value.__self__)
        ):
            return value.__qualname__, getattr(value, "__func__", None)
        stateless = type(value) in PLAIN or callable(value) or isinstance(value, types.ModuleType)
        return value if stateless or not installed.installed_name(type(value)) else type(value)


def imports(x: types.FunctionType, code: types.CodeType, names: Set[str]) -> Parts:
    """Yields what a function may use of the modules that it imports while it runs.

    Raises Unknown if such a module is neither installed nor imported yet.
    """
    if IMPORT in code.co_code[::2]:
        steps = list(dis.get_instructions(code))
        for number, step in enumerate(steps):
            if step.opcode == IMPORT:
                level, attributes = (operand.argval for operand in steps[number - 2 : number])
                name = importlib.util.resolve_name("." * level + step.argval, x.__globals__.get("__package__"))
                yield from imported(name, attributes or (), names)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from imports(x, inner, names)


def imported(name: str, attributes: tuple[str, ...], names: Set[str]) -> Parts:
    """Yields what `names` may mean in a module of which `attributes` are imported. Raises Unknown if it is absent."""
    if installed.is_importable(name):
        yield "import", name, attributes
    elif name in sys.modules and all(hasattr(sys.modules[name], attribute) for attribute in attributes):
        top = name.partition(".")[0]
        yield from values_named({module: sys.modules[module] for module in (top, name)}, names | {top, name}, set())
    else:
        raise Unknown(f"{name}: not imported yet")


@parts.register
def _(x: type) -> Parts:
    """How JAX flattens the instances is a part as well."""
    yield from ("class", x.__qualname__, type(x), x.__bases__, PYTREE_RULES.get(x))
    if issubclass(x, enum.Enum):
        yield from ((member.name, member._value_) for member in x)
        yield from sorted_items({name: value for name, value in vars(x).items() if isinstance(value, METHODS)})
    else:
        yield from sorted_items(vars(x))


@parts.register
def _(x: types.ModuleType) -> Parts:
    """The parts of a module that an object holds are all that it defines."""
    if installed.is_installed_module(x.__name__):
        return iter(("module", x.__name__, installed.release_of(x.__name__)))
    return iter(
        ("module", *sorted_items({name: value for name, value in vars(x).items() if not name.startswith("__")}))
    )


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
    """Raises Unknown if the globals of a caching function have changed: it may still return results from before."""
    inner = x.__wrapped__
    if isinstance(inner, types.FunctionType) and installed.is_users_function(inner):
        now = digest_of(inner)
        if FIRST_DIGESTS.setdefault(x, now) != now:
            raise Unknown(f"{inner}: the code or values it reaches have changed since it was first inspected")
    return iter((type(x).__name__, inner))


@parts.register
def _(x: weakref.ReferenceType) -> Parts:
    return iter(("weak", x()))


@parts.register(weakref.WeakKeyDictionary)
@parts.register(weakref.WeakValueDictionary)
@parts.register(weakref.WeakSet)
def _(x: Any) -> Parts:
    raise Unknown("the content of a weak collection changes by itself")
