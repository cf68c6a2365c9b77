"""What Python and installed packages have defined: named, not looked into; and what of it somebody has replaced."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any

PACKAGE = str(pathlib.Path(__file__).parents[1]) + os.sep
PLACES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
INSTALLED = tuple(place + os.sep for one in PLACES for place in (one, os.path.realpath(one)))


def is_installed_file(path: str) -> bool:
    """Whether a file of source belongs to Python or to an installed package other than this one."""
    return path.startswith("<frozen ") or (path.startswith(INSTALLED) and not path.startswith(PACKAGE))


def is_installed_module(name: str) -> bool:
    """Whether a module of this name is in use and belongs to Python or to an installed package other than this one."""
    one = sys.modules.get(name)
    path, (home, _, _) = getattr(one, "__file__", None), name.rpartition(".")
    if one is None or path or not home:
        return is_installed_file(path) if path else name in sys.builtin_module_names
    return is_installed_module(home)  # a part of a compiled module has no file


def is_importable(name: str) -> bool:
    """Whether a module, in use or not, is installed or this package's."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == __package__ or is_installed_module(top):
        return True
    spec = None if top in sys.modules else importlib.util.find_spec(top)
    return spec is not None and is_installed_file(spec.origin or "")


def installed_name(x: Any) -> str | None:
    """The dotted path and the release of what an installed package has defined; None for all else.

    It must be found at that path, and neither it nor what it wraps may be a function from elsewhere.
    """
    home, path = getattr(x, "__module__", None), getattr(x, "__qualname__", None) or getattr(x, "__name__", None)
    if (
        not (isinstance(home, str) and isinstance(path, str) and is_installed_module(home))
        or look_up(home, path) is not x
    ):
        return None
    return (
        f"{home}.{path} of {release_of(home)}"
        if all(is_installed_file(one.co_filename) for one in code_objects(x))
        else None
    )


def look_up(home: str, path: str) -> Any:
    """What is at a dotted path of a module; None where there is nothing."""
    one: Any = sys.modules[home]
    for step in path.split("."):
        one = getattr(one, "__dict__", {}).get(step)
    return one


def code_objects(x: Any) -> Iterator[types.CodeType]:
    """The code of a function, and of those that it says it wraps."""
    while x is not None:
        if isinstance(x, types.FunctionType):
            yield x.__code__
        x = getattr(x, "__wrapped__", None)


@functools.cache
def release_of(home: str) -> str:
    """Names the content of the package that a module belongs to, by its version and its list of files with digests.

    Raises LookupError where it belongs to none.
    """
    top = home.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"Python {sys.version}"
    try:
        owners = [importlib.metadata.distribution(top)]
    except importlib.metadata.PackageNotFoundError:
        owners = [importlib.metadata.distribution(one) for one in sorted(set(owning().get(top, ())))]
    if not owners:
        raise LookupError(f"{home}: among installed packages, and of none of them")
    records = [f"{one.version} {one.read_text('RECORD')}" for one in owners]
    return hashlib.sha256("\n".join(records).encode()).hexdigest()


owning = functools.cache(importlib.metadata.packages_distributions)


def replaced_functions() -> list[tuple[str, str, types.FunctionType]]:
    """Module, name and value of each function in modules and classes of Python, installed packages and this one that
    is from elsewhere: somebody has put it there."""
    modules = [(home, one) for home, one in list(sys.modules.items()) if isinstance(one, types.ModuleType)]
    scanned = [
        (home, one) for home, one in modules if is_installed_module(home) or is_own_file(vars(one).get("__file__"))
    ]
    strangers = [
        (home, path, value) for home, one in scanned for path, value in functions_of(home, one) if is_foreign(value)
    ]
    return sorted(strangers, key=lambda stranger: stranger[:2])


def is_own_file(path: str | None) -> bool:
    """Whether a file is this package's."""
    return bool(path) and str(path).startswith(PACKAGE)


def functions_of(home: str, one: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    """Name and value of the functions in a module, and in the classes that it defines."""
    for name, value in list(vars(one).items()):
        if type(value) is types.FunctionType:
            yield name, value
        elif isinstance(value, type) and value.__module__ == home:
            methods = list(vars(value).items())
            yield from ((f"{name}.{inner}", one) for inner, one in methods if type(one) is types.FunctionType)


def is_foreign(function: types.FunctionType) -> bool:
    """Whether a function is from elsewhere; one that code has written, as for a dataclass, is its module's."""
    path, home = function.__code__.co_filename, function.__module__ or ""
    if path == "<string>":
        return not (is_installed_module(home) or home.partition(".")[0] == __package__)
    return not (is_installed_file(path) or is_own_file(path))
