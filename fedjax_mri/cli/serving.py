"""The command `fedjax-mri serve`, and the password of a user who is added."""

import argparse
import getpass
import sys
from collections.abc import Sequence

from fedjax_mri.core.errors import UserError, install


def serve(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Serves a web page with these runs, or adds a user to a file of users. Raises UserError on what cannot be."""
    try:
        from fedjax_mri.serve import access, command
        from fedjax_mri.serve.settings import Settings
    except ImportError as error:
        raise UserError(f"serve: {error.name} is missing; {install('serve')}") from None
    from fedjax_mri.run import config

    settings = config.override(Settings(), flags)
    if options.add_user is not None:
        if options.users is None:
            raise UserError(f"--add-user {options.add_user}: give --users FILE as well")
        access.add_user(options.users, options.add_user, password(options.add_user))
        print(f"{options.users}: {options.add_user} may log in")
        return
    names = ("host", "port", "token", "users", "certificate", "key", "data")
    words = {name: vars(options)[name] for name in names}
    choices = command.Choices(options.runs, options.out, configs=options.config, **words)
    command.serve(choices, settings, lambda line: print(line, flush=True))


def password(name: str) -> str:
    """Returns a password that is typed twice, or is the line on standard input where that is no terminal."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass(f"password of {name}: ")
    if getpass.getpass("once more: ") != first:
        raise UserError("the two passwords differ: nothing was changed")
    return first
