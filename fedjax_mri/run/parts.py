"""Parts of a config chosen by name: `--fed.algorithm scaffold` puts the class Scaffold there, with its defaults.

A part is found by its file: a settings class, a dataclass with `build`, in any module of the part's folder. A user's
own is found in the file that is named, as in `--fed.algorithm mine.py`, or `mine.py:Name` where it has several.
"""

import difflib
import functools
import importlib
import inspect
import pathlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import ModuleType
from typing import Any

from fedjax_mri.core import modules
from fedjax_mri.core.errors import UserError

PARTS = {  # field of the config -> where its settings classes are
    "data": "fedjax_mri.data",
    "algorithm": "fedjax_mri.fed.algorithms",
    "sampling": "fedjax_mri.fed.sampling",
    "conditions": "fedjax_mri.fed.world.conditions",
    "privacy": "fedjax_mri.fed.privacy",
    "secure": "fedjax_mri.fed.secure",
    "uplink.stages": "fedjax_mri.fed.uplink.stages",
    "uplink.before": "fedjax_mri.fed.uplink.preaggregators",
    "uplink.reduce": "fedjax_mri.fed.uplink.reductions",
    "attack": "fedjax_mri.fed.attack",
    "downlink": "fedjax_mri.fed.uplink.stages",
    "task.network": "fedjax_mri.nets",  # of the task that classifies
}
BUILT_FROM = {  # parameters of `build`, where others are there
    "data": ["seed"],
    "task.network": ["image", "classes", "compute"],
}
SEVERAL = {"uplink.stages", "uplink.before"}  # fields that take all names up to the next flag, in their order
Put = Callable[[Any, str, Any], Any]  # (config, dotted field, value) -> config


def choose(config: Any, flags: Sequence[str], put: Put) -> tuple[Any, list[str]]:
    """Returns `config` with the parts that `--fed.PART NAME` names, and the other flags.

    Raises UserError on unknown names.
    """
    rest, words = list[str](), [word for flag in flags for word in (flag.split("=", 1) if _asks(flag) else [flag])]
    while words:
        word = words.pop(0)
        if not _asks(word):
            rest.append(word)
            continue
        part = word.removeprefix("--fed.")
        if part not in PARTS or not hasattr(config, part.partition(".")[0]):
            raise UserError(f"{word}: the parts chosen by name are {', '.join(f'--fed.{name}' for name in PARTS)}")
        _refuse_other_networks(word, part, config)
        names = _names(words) if part in SEVERAL else [words.pop(0) if words else ""]
        chosen = tuple(_choose(word, name, part, flags) for name in names)
        config = put(config, part, chosen if part in SEVERAL else chosen[0])
    return config, rest


def refuse_names(config: Any) -> None:
    """Raises UserError where a field of a config holds the name of a part, in place of its settings."""
    for part in PARTS:
        own = _own(config, part)
        if isinstance(own, str):
            made = settings(part).get(own.lower())
            remedy = f"give {made.__name__}()" if made else f"choose one of {', '.join(settings(part))}"
            chosen = own.lower() if made else "NAME"
            raise UserError(f"{part}={own!r}: must be settings, not text: {remedy}, or --fed.{part} {chosen}")


def _own(config: Any, part: str) -> Any:
    """Returns a config's own part; None where it has no such section."""
    return functools.reduce(lambda section, name: getattr(section, name, None), part.split("."), config)


def _refuse_other_networks(flag: str, part: str, config: Any) -> None:
    """Raises UserError where the config's own part is built in another way than those that can be chosen by name."""
    if part in BUILT_FROM and not _is_built_from(_own(config, part), BUILT_FROM[part]):
        own = type(_own(config, part)).__name__
        raise UserError(
            f"{flag}: {part} of this config is {own}, whose kind is not chosen by name; set it in the config"
        )


def _is_built_from(settings: Any, parameters: list[str]) -> bool:
    build = getattr(settings, "build", None)
    return build is not None and [one for one in inspect.signature(build).parameters if one != "self"] == parameters


def _asks(flag: str) -> bool:
    return flag.startswith("--fed.")


def _names(words: list[str]) -> list[str]:
    """Returns the words up to the next flag, taken off the list."""
    count = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
    names = words[:count]
    del words[:count]
    return names


def _choose(flag: str, name: str, part: str, flags: Sequence[str]) -> Any:
    """Returns the settings that a flag names, of this package or of a file. Raises UserError where there are none."""
    file, _, kind = name.partition(":")
    if file.endswith(".py"):
        known = of_file(flag, file, part)
        name = next(iter(known)) if not kind and len(known) == 1 else kind.lower().removesuffix("settings")
        if name not in known:
            raise UserError(
                f"{flag} {file}{':' * bool(kind)}{kind}: give {' or '.join(f'{file}:{one}' for one in known)}"
            )
    else:
        known = settings(part)
    if name in known:
        return _with_defaults(f"{flag} {name}", known[name], part, flags)
    near = difflib.get_close_matches(name, known, 1)
    raise UserError(f"{flag} {name}: " + (f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"))


def _with_defaults(flag: str, kind: Any, part: str, flags: Sequence[str]) -> Any:
    """Returns the settings of a class with its defaults.

    Raises UserError where a field has none and no flag sets it.
    """
    needed = [one for one in fields(kind) if one.init and one.default is MISSING and one.default_factory is MISSING]
    for one in needed:
        setting = f"--{part}.{one.name}"
        if one.type not in (str, "str"):
            remedy = f"give it one, or set {kind.__name__}(...) in the config"
            raise UserError(f"{flag}: {kind.__name__}.{one.name} has no default: {remedy}")
        if setting not in {word.partition("=")[0].replace("-", "_").replace("__", "--", 1) for word in flags}:
            raise UserError(f"{flag}: {kind.__name__}.{one.name} has no default: give {setting} as well")
    return kind(**{one.name: "" for one in needed})  # the flag will put its value there


def settings(part: str) -> dict[str, type]:
    """Returns the settings classes that a part may be, by their names in lower case without "settings"."""
    home = importlib.import_module(PARTS[part])
    names = [one.name for one in pkgutil.iter_modules(getattr(home, "__path__", ()))]
    return _by_name(part, [importlib.import_module(f"{home.__name__}.{name}") for name in names] or [home])


def of_file(flag: str, file: str, part: str) -> dict[str, type]:
    """Returns the settings classes of a user's Python file that a part may be. Raises UserError where it has none."""
    if not pathlib.Path(file).is_file():
        raise UserError(f"{flag} {file}: no such file")
    try:
        found = _by_name(part, [modules.execute(pathlib.Path(file), beside=True)])
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{flag} {file}: cannot be read: {type(error).__name__}: {error}") from error
    if not found:
        wanted = f"build({', '.join(BUILT_FROM[part])})" if part in BUILT_FROM else "build"
        raise UserError(f"{flag} {file}: has no dataclass with a method {wanted}")
    return found


def _by_name(part: str, homes: Sequence[ModuleType]) -> dict[str, type]:
    kinds = [kind for module in homes for kind in _buildable(module)]
    if part in BUILT_FROM:
        kinds = [kind for kind in kinds if _is_built_from(kind, BUILT_FROM[part])]
    named = [(kind.__name__.lower().removesuffix("settings"), kind) for kind in kinds]
    found = dict(named)
    for name, kind in named:
        if found[name] is not kind:
            raise UserError(f"{part}: {kind.__module__} and {found[name].__module__} both have a {name}: rename one")
    return found


def _buildable(module: ModuleType) -> list[Any]:
    """Returns the settings classes of a module, or those of a package that its `__init__` offers."""
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if is_dataclass(kind)]
    own = [kind for kind in kinds if f"{kind.__module__}.".startswith(f"{module.__name__}.")]
    return [kind for kind in own if hasattr(kind, "build")]
