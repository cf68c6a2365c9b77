"""The user's cache folder, in which compiled programs and measured plans are kept between runs."""

import functools
import os
import pathlib
import sys
import tempfile


def folder() -> pathlib.Path:
    """Returns our part of the user's cache folder, or a temporary folder where there can be none."""
    return users_folder() or pathlib.Path(temporary().name)


def users_folder() -> pathlib.Path | None:
    """Returns our part of the user's cache folder, which exists; None, with one warning, where there can be none.

    As the XDG specification says, XDG_CACHE_HOME does not count when it is empty or relative.
    """
    given = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return writable(given / "fedjax_mri")
    try:
        return writable(pathlib.Path.home() / ".cache" / "fedjax_mri")
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return writable(None)


@functools.cache  # so the warning comes once
def writable(place: pathlib.Path | None) -> pathlib.Path | None:
    """Returns the folder `place` once it is there; None, with a warning, if it cannot be written."""
    try:
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()  # os.access says yes on some file systems that then refuse
            return place
        reason = "this user has no home folder"
    except OSError as error:
        reason = f"{place} cannot be written ({error.strerror})"
    advice = "set XDG_CACHE_HOME to a folder of yours"
    print(f"warning: no cache, so each run compiles its programs again: {reason}; {advice}", file=sys.stderr)
    return None


@functools.cache
def temporary() -> "tempfile.TemporaryDirectory[str]":
    """Returns a folder that is deleted when this process ends."""
    return tempfile.TemporaryDirectory(prefix="fedjax_mri_")
