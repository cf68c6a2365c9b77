"""Objects by their dotted import path, as configs name them."""

import difflib
from collections.abc import Callable
from typing import Any

from fedjax_mri.core import modules
from fedjax_mri.core.errors import UserError, short_message


def imported(name: str, field: str) -> Callable[..., Any]:
    """Returns the object at a dotted import path.

    Raises UserError, which names the `field` of the config, if the module or the name does not exist.
    """
    module, _, attribute = name.rpartition(".")
    try:
        home = modules.load(module)
    except (ImportError, ValueError) as error:
        said = "" if isinstance(error, ModuleNotFoundError) and error.name == module else f" ({short_message(error)})"
        remedy = "give a path such as optax.adam" if "." in field or field != "class" else "put that module back"
        raise UserError(f"{field}={name}: cannot import {module or name!r}{said}; {remedy}") from None
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        raise UserError(
            f"{field}={name}: {module} cannot be imported: {type(error).__name__}: {short_message(error)}"
        ) from error
    if hasattr(home, attribute):
        return getattr(home, attribute)
    near = difflib.get_close_matches(attribute, dir(home), 1)
    hint = f"did you mean {module}.{near[0]}?" if near else f"{module} has no such name"
    raise UserError(f"{field}={name}: {hint}")
