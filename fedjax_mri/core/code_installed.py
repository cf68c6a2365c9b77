"""Objects that Python or an installed package defines, which have a name and a release; and those replaced since."""

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
OWN = __name__.partition(".")[0]
PLACES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
INSTALLED = tuple(place + os.sep for path in PLACES for place in (path, os.path.realpath(path)))


def is_installed_file(path: str) -> bool:
    """Returns whether a source file belongs to Python or to an installed package other than this one."""
    return path.startswith("<frozen ") or (path.startswith(INSTALLED) and not path.startswith(PACKAGE))


@functools.cache  # a run asks several times for each loaded module
def is_users_file(path: str) -> bool:
    """Returns whether a source file is the user's: not of Python, of an installed package, or of this one."""
    if path.startswith("<"):  # code that was made at run time, or of Python
        return False
    real = os.path.realpath(path)
    return not (real.endswith((".so", ".pyd")) or is_own_file(real) or is_installed_file(real))


def is_installed_module(name: str) -> bool:
    """Returns whether a loaded module of this name belongs to Python or to an installed package other than this one."""
    module = sys.modules.get(name)
    path, (home, _, _) = getattr(module, "__file__", None), name.rpartition(".")
    if module is None or path or not home:
        return is_installed_file(path) if path else name in sys.builtin_module_names
    return is_installed_module(home)  # a part of a compiled module has no file


def is_importable(name: str) -> bool:
    """Returns whether a module, loaded or not, belongs to Python, an installed package or this package."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == OWN or is_installed_module(top):
        return True
    spec = None if top in sys.modules else importlib.util.find_spec(top)
    return spec is not None and is_installed_file(spec.origin or "")


def installed_name(x: Any) -> str | None:
    """Returns dotted path and release of an object that an installed package defines; None for any other object.

    The object must be found at that path, and the code of all functions that it wraps must be installed too.
    """
    home, path = getattr(x, "__module__", None), getattr(x, "__qualname__", None) or getattr(x, "__name__", None)
    if (
        not (isinstance(home, str) and isinstance(path, str) and is_installed_module(home))
        or look_up(home, path) is not x
    ):
        return None
    return (
        f"{home}.{path} of {release_of(home)}"
        if all(is_installed_file(code.co_filename) for code in code_objects(x))
        else None
    )


def look_up(home: str, path: str) -> Any:
    """Returns the object at a dotted path of a module; None if there is none."""
    value: Any = sys.modules[home]
    for step in path.split("."):
        value = getattr(value, "__dict__", {}).get(step)
    return value


def code_objects(x: Any) -> Iterator[types.CodeType]:
    """Yields the code of a function and of the functions that its `__wrapped__` names."""
    while x is not None:
        if isinstance(x, types.FunctionType):
            yield x.__code__
        x = getattr(x, "__wrapped__", None)


@functools.cache
def release_of(home: str) -> str:
    """Returns a digest of the package that a module belongs to: of its version and of its files' digests.

    For Python's own modules it is the version of Python. Raises LookupError if the module belongs to no package.
    """
    top = home.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"Python {sys.version}"
    try:
        owners = [importlib.metadata.distribution(top)]
    except importlib.metadata.PackageNotFoundError:
        owners = [importlib.metadata.distribution(name) for name in sorted(set(packages_of_modules().get(top, ())))]
    if not owners:
        raise LookupError(f"{home}: lies among the installed packages but belongs to none of them")
    records = [f"{owner.version} {owner.read_text('RECORD')}" for owner in owners]
    return hashlib.sha256("\n".join(records).encode()).hexdigest()


packages_of_modules = functools.cache(importlib.metadata.packages_distributions)


def replaced_functions() -> list[tuple[str, str, types.FunctionType]]:
    """Returns module, name and value of each function that has been put into an installed module or class at run time.

    The modules are those of Python, of installed packages and of this package; the code of the function is from none.
    """
    modules = [(home, module) for home, module in list(sys.modules.items()) if isinstance(module, types.ModuleType)]
    scanned = [
        (home, module)
        for home, module in modules
        if is_installed_module(home) or is_own_file(vars(module).get("__file__"))
    ]
    replaced = [
        (home, path, value)
        for home, module in scanned
        for path, value in functions_of(home, module)
        if is_users_function(value)
    ]
    return sorted(replaced, key=lambda function: function[:2])


def is_own_file(path: str | None) -> bool:
    """Returns whether a file belongs to this package."""
    return bool(path) and str(path).startswith(PACKAGE)


def functions_of(home: str, module: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    """Yields name and value of the functions in a module, and in the classes that it defines."""
    for name, value in list(vars(module).items()):
        if type(value) is types.FunctionType:
            yield name, value
        elif isinstance(value, type) and value.__module__ == home:
            methods = list(vars(value).items())
            yield from ((f"{name}.{inner}", method) for inner, method in methods if type(method) is types.FunctionType)


def is_users_function(function: types.FunctionType) -> bool:
    """Returns whether the code of a function is the user's: not of Python, of an installed package, or of this one.

    Code generated at run time, such as a dataclass's `__init__`, belongs to the module of its class.
    """
    path, home = function.__code__.co_filename, function.__module__ or ""
    if path == "<string>":
        return not (is_installed_module(home) or home.partition(".")[0] == OWN)
    return not (is_installed_file(path) or is_own_file(path))
