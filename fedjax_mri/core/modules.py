"""Python files of the user as modules: config files, study files, scripts, and what they import from beside them.

A file is a module named after itself, and its folder is on the path. So the classes that it defines have a name by
which they are found again, in the file or in a copy of it that a run keeps. Only one such folder is in use at a time:
two folders may each have a `config.py`, or each a `helper.py` that it imports.
"""

import contextlib
import importlib
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from fedjax_mri.core.code_installed import is_importable, is_users_file


class Folder(NamedTuple):
    """A folder whose modules can be imported now."""

    path: str
    before: frozenset[str]  # modules that were loaded before it was used
    wrote_none: bool  # `sys.dont_write_bytecode` before
    texts: Mapping[str, bytes] | None  # of a run's copies when they were first used; None for another folder
    hidden: Mapping[str, ModuleType]  # modules of other folders that have the name of one of this folder's


_used: list[Folder] = []
_executing: list[pathlib.Path] = []


def execute(path: pathlib.Path, beside: bool = False) -> ModuleType:
    """Executes a Python file and returns it as a module. Raises whatever the file raises.

    The folder of the file before is no longer in use, unless this file is used `beside` it.
    """
    file = path.resolve()
    if not _executing and not beside:  # a file that loads another one still needs its own folder
        forget()
    name = module_name(file)
    use_path(file.parent)
    sys.modules[name] = module = ModuleType(name)
    module.__file__ = str(file)
    try:
        with mark_executing(file):
            exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load(name: str) -> ModuleType:
    """Returns the module of that name, imported if need be. Raises whatever the import raises."""
    with mark_executing(pathlib.Path(name)):
        return importlib.import_module(name)


@contextlib.contextmanager
def mark_executing(file: pathlib.Path) -> Iterator[None]:
    """Makes `executing` give this file while entered."""
    _executing.append(file)
    try:
        yield
    finally:
        _executing.pop()


def module_name(file: pathlib.Path) -> str:
    """Returns the name of a file as a module: its own, and underscores where another module has that name."""
    name = file.stem.replace(".", "_")
    while name in sys.modules or is_importable(name):
        name += "_"
    return name


def executing() -> pathlib.Path | None:
    """Returns the file or module that `execute` or `load` is executing now, if any: it must not train."""
    return _executing[-1] if _executing else None


@contextlib.contextmanager
def copies_in(folder: pathlib.Path) -> Iterator[None]:
    """Makes the modules in a run's folder of copies importable while entered; loaded ones of the same text are kept.

    They stay importable afterwards, in place of those of the run before. While a config file is in use, its own modules
    are put back afterwards.
    """
    copies = {module: file for file in sorted(folder.rglob("*.py")) for module in [dotted(file.relative_to(folder))]}
    use_main(copies)
    texts = {name: file.read_bytes() for name, file in copies.items()}
    in_use = _used[-1].texts if _used and _used[-1].path == str(folder.resolve()) else None
    if texts == in_use or (in_use is None and all(is_loaded(name, file) for name, file in copies.items())):
        yield
        return
    serves_config = any(one.texts is None for one in _used)
    kept = {name: sys.modules[name] for name in copies if name in sys.modules} if serves_config else {}
    if not serves_config:
        forget()
    for name in copies:
        sys.modules.pop(name, None)
    use_path(folder.resolve(), texts)
    try:
        yield
    finally:
        if serves_config:
            folder_used = _used.pop()
            sys.path.remove(folder_used.path)
            sys.modules.update({**folder_used.hidden, **kept})


def use_main(copies: dict[str, pathlib.Path]) -> None:
    """Gives the script that runs now its name as a module, where it is one of the copies."""
    main = sys.modules["__main__"]
    for name, copy in copies.items():
        if name == script_name(main) and same_text(main, copy):
            sys.modules.setdefault(name, main)


def script_name(main: ModuleType) -> str:
    """Returns the name that a script has as a module; "__main__" where it is no file."""
    file = getattr(main, "__file__", None)
    return pathlib.Path(file).stem.replace(".", "_") if file and is_users_file(file) else "__main__"


def loaded_names() -> set[str]:
    """Returns the names of all loaded modules, that of the script that runs among them."""
    return {*sys.modules, script_name(sys.modules["__main__"])}


def home(kind: type) -> str:
    """Returns the module in which a class is found again; a script's own, for a class of the script that runs."""
    return script_name(sys.modules["__main__"]) if kind.__module__ == "__main__" else kind.__module__


def is_found(kind: type) -> bool:
    """Returns whether a class is found again by the names of its module and itself."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind and home(kind) != "__main__"


def use_homes(kinds: Iterable[type]) -> list[str]:
    """Returns the names of those classes that no other process can find.

    Ends the use of a folder whose modules have the names of those in which the classes are.
    """
    if not all(map(is_found, kinds)):
        forget()
    return sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds if not is_found(kind))


def sources(names: Iterable[str]) -> dict[str, pathlib.Path]:
    """Returns the user's source files that the modules of these names need, by their paths below a folder of copies.

    They are all loaded modules that lie below the folders from which those modules were imported, or in the folder
    that is in use.
    """
    roots = {root for name in names if (root := root_of(name)) is not None}
    roots |= {folder.path for folder in _used}
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or not is_users_file(file):
            continue
        name = script_name(module) if name == "__main__" else name
        if root_of(name, file) in roots:
            found[as_path(name, file)] = pathlib.Path(file)
    return found


def root_of(name: str, file: str | None = None) -> str | None:
    """Returns the folder from which a user's module is imported; None for an installed one or one without a file."""
    main = sys.modules["__main__"]
    module = main if name == script_name(main) else sys.modules.get(name)
    file = file or getattr(module, "__file__", None)
    if not file or not is_users_file(file):
        return None
    path = pathlib.Path(file).resolve()
    depth = name.count(".") + (path.name == "__init__.py")
    return str(path.parents[depth])


def as_path(name: str, file: str) -> str:
    """Returns the path of a module's file below the folder from which it is imported."""
    return name.replace(".", "/") + ("/__init__.py" if file.endswith("__init__.py") else ".py")


def dotted(path: pathlib.Path) -> str:
    """Returns the name of the module at a path below the folder from which it is imported."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def same_text(module: ModuleType, file: pathlib.Path) -> bool:
    """Returns whether a loaded module has the text of a file."""
    own = pathlib.Path(getattr(module, "__file__", None) or "")
    return own.is_file() and own.read_bytes() == file.read_bytes()


def is_loaded(name: str, file: pathlib.Path) -> bool:
    """Returns whether a module of that name is loaded whose text is that of a file."""
    return name in sys.modules and same_text(sys.modules[name], file)


def use_path(folder: pathlib.Path, texts: Mapping[str, bytes] | None = None) -> None:
    """Puts a folder at the head of the path; `texts` are those of its modules, where it holds a run's copies."""
    before, wrote_none = frozenset(sys.modules), sys.dont_write_bytecode
    _used.append(Folder(str(folder), before, wrote_none, texts, hide_others(folder)))
    sys.dont_write_bytecode = True  # Python compares .pyc files by whole seconds, and would miss a second edit
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def hide_others(folder: pathlib.Path) -> dict[str, ModuleType]:
    """Takes the user's modules of other folders that have the name of a module in `folder` off the list of loaded ones.

    Returns them. An import would give the loaded module, and not that in the folder.
    """
    names = {one.stem for one in folder.glob("*.py")} | {one.parent.name for one in folder.glob("*/__init__.py")}
    hidden = {}
    for name in names & sys.modules.keys():
        file = getattr(sys.modules[name], "__file__", None)
        if file and is_users_file(file) and root_of(name, file) != str(folder):
            hidden[name] = sys.modules.pop(name)
    return hidden


def forget() -> None:
    """Takes the folders in use off the path, and their modules out of the list of loaded ones."""
    while _used:
        folder = _used.pop()
        sys.dont_write_bytecode = folder.wrote_none
        if folder.path in sys.path:
            sys.path.remove(folder.path)
        for name in list(modules_of(folder)):
            del sys.modules[name]
        sys.modules.update(folder.hidden)


def modules_of(folder: Folder) -> Iterator[str]:
    """Yields the names of modules that were loaded from a folder since it is in use."""
    for name, module in sys.modules.items():
        file = getattr(module, "__file__", None)
        old = name in folder.before and name not in folder.hidden
        if old or name == "__main__" or file is None or not is_users_file(file):  # the cheapest questions first
            continue
        if os.path.realpath(file).startswith(folder.path + os.sep):
            yield name
