"""Turns every error into one line that says what to do. Its traceback goes to a file."""

import contextlib
import errno
import os
import pathlib
import sys
import tempfile
import time
import traceback

from fedjax_mri.core import cache, memory
from fedjax_mri.core.code_installed import is_users_file
from fedjax_mri.core.errors import UserError, short_message

FILE = "traceback.txt"
AGAIN = "then run the same command again"
FILE_SYSTEM = {  # what an error of the file system means for a path, and the remedy
    errno.ENOSPC: f"the disk is full; free space, {AGAIN}",
    errno.EDQUOT: f"your quota on this disk is used up; free space, {AGAIN}",
    errno.EFBIG: f"larger than a file may be here; raise the limit (ulimit -f), {AGAIN}",
    errno.EACCES: "permission denied; change the permissions, or choose another path",
    errno.EPERM: "permission denied; change the permissions, or choose another path",
    errno.EROFS: "this disk is read-only; choose another path",
    errno.EEXIST: "is a file where a folder is needed; choose another path",
    errno.ENOTDIR: "lies below a file, or is a file where a folder is needed; choose another path",
    errno.EISDIR: "is a folder where a file is needed; choose another path",
    errno.ENOENT: "not there, and cannot be made there; check the path",
    errno.ENAMETOOLONG: "this name is too long; choose a shorter one",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; close some programs",
}
OTHER_PATH = {one for one, words in FILE_SYSTEM.items() if "choose another path" in words}
LESS_MEMORY = (
    "a run needs less with --plan.lanes 1, a smaller --local.batch, --plan.clients host or --plan.data streamed, "
    "and --plan.memory-mb tells it how much there is"
)


def one_line(error: BaseException, folder: pathlib.Path, kept: str = "") -> str:
    """Returns an error as one line: what happened, what to do, what is `kept` to go on from, where its traceback is.

    The traceback goes to a file in `folder`, which is the run's; if that is no folder, to the user's cache folder. The
    message of a UserError says all there is to say, so it is the line.
    """
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    file = keep_traceback(error, folder)
    where = f"the traceback is in {file}" if file else "its traceback could not be written"
    again = "" if isinstance(error, OSError) and error.errno in OTHER_PATH else kept  # the same command would not help
    return "; ".join(filter(None, (describe(error), again, where)))


def describe(error: BaseException) -> str:
    """Returns what happened and what to do, without a traceback."""
    if isinstance(error, UserError):
        return str(error)
    if is_without_device(error):
        return (
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: JAX finds no such device here; leave it unset to "
            'use the devices that are there, or install JAX for yours, as with pip install "jax[cuda13]"'
        )
    if place := users_place(error):
        return f"{place}: {named(error)}"
    if memory.ran_out(error):
        return f"out of memory ({short_message(error)}); {LESS_MEMORY}"
    if isinstance(error, OSError) and error.errno is not None:
        return describe_file_system(error)
    if is_of_xla(error):
        remedy = "try --plan.conv direct or --plan.lanes 1; report it if they do not help"
        return f"the compiler or the device failed ({short_message(error)}); {remedy}"
    if isinstance(error, ImportError):
        return f"a package is missing or does not fit the others ({short_message(error)}); install fedjax-mri again"
    return f"this is a fault of fedjax_mri ({named(error)}); please report it with its traceback"


def named(error: BaseException) -> str:
    """Returns type and message of an error on one line."""
    return f"{type(error).__name__}: {short_message(error)}"


def describe_file_system(error: OSError) -> str:
    """Returns which path the file system refused, and what to do."""
    path = f"{error.filename}: " if error.filename is not None else ""
    return path + FILE_SYSTEM.get(error.errno or 0, f"{error.strerror}; check the disk, {AGAIN}")


def is_without_device(error: BaseException) -> bool:
    """Returns whether JAX could not start on the devices that JAX_PLATFORMS names.

    For some it only fails an assertion.
    """
    if isinstance(error, RuntimeError):
        return "Unable to initialize backend" in str(error)
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, AssertionError) and bool(frames) and frames[-1].filename.endswith("xla_bridge.py")


def is_of_xla(error: BaseException) -> bool:
    """Returns whether JAX's compiler or a device has failed. JAX need not be imported to know."""
    return any(one.__name__ in ("JaxRuntimeError", "XlaRuntimeError") for one in type(error).__mro__)


def users_place(error: BaseException) -> str:
    """Returns the innermost place in a user's own code that an error passed, as file and line, or an empty string."""
    if isinstance(error, SyntaxError) and error.filename and is_users_file(error.filename):
        return f"{error.filename}, line {error.lineno}"
    frames = [one for one in traceback.extract_tb(error.__traceback__) if is_users_file(one.filename)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else ""


def keep_traceback(error: BaseException, folder: pathlib.Path) -> pathlib.Path | None:
    """Adds the traceback of an error to a file, and returns the file; None if none can be written."""
    command = " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {command}\n{''.join(traceback.format_exception(error))}\n"
    for place in (folder, cache.users_folder(), pathlib.Path(tempfile.gettempdir())):
        if place is None or not place.is_dir():
            continue
        with contextlib.suppress(OSError), (place / FILE).open("ab") as file:
            file.write(text.encode(errors="backslashreplace"))
            return place / FILE
    return None
