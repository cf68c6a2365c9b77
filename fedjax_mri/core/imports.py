"""Objects by their dotted import path, as configs name them."""

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from fedjax_mri.core.errors import UserError


def imported(name: str, field: str) -> Callable[..., Any]:
    """Returns the object at a dotted import path.

    Raises UserError, which names the `field` of the config, if the module or the name does not exist.
    """
    module, _, attribute = name.rpartition(".")
    try:
        home = importlib.import_module(module)
        return getattr(home, attribute)
    except (ImportError, ValueError):
        raise UserError(f"{field}={name}: cannot import {module or name!r}; give a path such as optax.adam") from None
    except AttributeError:
        near = difflib.get_close_matches(attribute, dir(home), 1)
        hint = f"did you mean {module}.{near[0]}?" if near else f"{module} has no such name"
        raise UserError(f"{field}={name}: {hint}") from None
