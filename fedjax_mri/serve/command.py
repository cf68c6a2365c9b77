"""The command `fedjax-mri serve`: checks what was asked, and runs the web server until it is stopped."""

import contextlib
import os
import shutil
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import filelock
import jax
import uvicorn

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.serve import access, app, runs, store, training
from fedjax_mri.serve.access import Access
from fedjax_mri.serve.scheduler import STATE
from fedjax_mri.serve.settings import Settings
from fedjax_mri.serve.shared import Server
from fedjax_mri.xai import methods

PRIVATE = 0o700
FOLDERS = ("jobs", "queue", "runs", "trainings", "temporary")  # of what is patients'
A_RUN = "give a run folder, which `fedjax-mri train` writes, or a folder with run folders"


class Choices(NamedTuple):
    """Holds what the command line says beside settings."""

    runs: Sequence[Path]
    home: Path
    host: str = "127.0.0.1"
    port: int = 8765
    token: bool = False
    users: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    configs: Sequence[Path] = ()
    data: Sequence[Path] = ()


def serve(choices: Choices, settings: Settings, say: Callable[[str], None]) -> None:
    """Serves the page until a signal stops it. Raises UserError on what cannot be served."""
    check(choices, settings)
    with locked(choices.home):
        server = build(choices, settings)
        os.umask(0o077)  # what this process and those that it starts write is readable by this user alone
        tempfile.tempdir = str(server.home / "temporary")  # of uploads
        for run in runs.find(server.places).values():
            runs.ability(run)  # now, not while the first user waits
        scheme = "https" if server.access.secure else "http"
        host = f"[{choices.host}]" if ":" in choices.host else choices.host
        say(f"{scheme}://{host}:{choices.port}  (jobs are kept in {choices.home}; Ctrl-C stops the server)")
        if server.access.token:
            say(f"token: {server.access.token}")
        if not (server.loopback or server.access.secure):
            say("warning: without --certificate and --key passwords and images can be read on the way")
        sys.setswitchinterval(0.001)  # threads that unpack and draw let the pages answer
        uvicorn.run(
            app.build(server),
            host=choices.host,
            port=choices.port,
            ssl_certfile=choices.certificate,
            ssl_keyfile=choices.key,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
        )


def check(choices: Choices, settings: Settings) -> None:
    """Raises UserError on what cannot be served, and on an open page off the loopback interface."""
    host, port, pair = choices.host, choices.port, (choices.certificate, choices.key)
    for flag, paths in (("", choices.runs), ("--config ", choices.configs), ("--data ", choices.data)):
        for path in paths:
            if not path.exists():
                raise UserError(f"{flag}{path}: not there; check the path")
        names = [one.stem if flag == "--config " else one.resolve().name for one in paths] if flag else []
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"{flag.strip()}: two are called {twice[0]}, and the page could not tell them apart; rename one"
            )
    for path in choices.runs:
        if not runs.find([path]):
            reason = "there is no run in it" if path.is_dir() else "is a file"
            raise UserError(f"{path}: {reason}; {A_RUN}")
    for name in settings.methods.split(","):
        methods.settings(name, "--methods")
    if host not in access.LOOPBACK and not (choices.token or choices.users):
        raise UserError(f"--host {host}: others may reach it there, so give --token, or --users FILE")
    if choices.token and choices.users:
        raise UserError("--token and --users: give one of them")
    if choices.users:
        access.users(choices.users)
    if None in pair and any(pair):
        raise UserError("--certificate and --key: give both, as PEM files")
    if choices.certificate is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(choices.certificate, choices.key)
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"--certificate {choices.certificate}: cannot be used with its key ({error})") from None
    if not 0 < port < 2**16:
        raise UserError(f"--port {port}: give a port from 1 to 65535")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        text = f"--host {host} --port {port}: cannot listen there ({error.strerror}); choose another"
        raise UserError(text) from None


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Keeps other servers from using HOME while entered. Raises UserError where one does."""
    if not home.exists():
        home.mkdir(mode=PRIVATE, parents=True)
    try:
        with filelock.FileLock(home / "lock", timeout=0):
            yield
    except filelock.Timeout:
        raise UserError(f"--out {home}: another server uses this folder; stop it, or choose another --out") from None


def build(choices: Choices, settings: Settings) -> Server:
    """Returns the server of these choices; the jobs of an earlier one in the same folder go on.

    Raises UserError on configs that cannot be loaded.
    """
    home = choices.home.resolve()
    shutil.rmtree(home / "temporary", ignore_errors=True)  # of a server that was killed
    for name in FOLDERS:
        (home / name).mkdir(mode=PRIVATE, exist_ok=True)
    jax.config.update("jax_platforms", "cpu")  # in this process, which computes nothing: devices are the worker's
    disk.write_text(home / STATE, "starting")
    store.recover(home)
    return Server(
        home=home,
        places=[path.resolve() for path in choices.runs] + [home / "runs"],
        choices=training.choices([path.resolve() for path in choices.configs]),
        data={path.resolve().name: path.resolve() for path in choices.data},
        settings=settings,
        access=Access(
            secret=access.read_secret(home / "secret"),
            token=access.read_secret(home / "token") if choices.token else "",
            users_file=choices.users,
            secure=choices.certificate is not None,
            failures=[],
        ),
        loopback=choices.host in access.LOOPBACK,
        uploading=[],
    )
