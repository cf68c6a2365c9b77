"""The command `fedjax-mri serve`: checks what was asked, and runs the web server until it is stopped."""

import contextlib
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

from fedjax_mri.core.errors import UserError
from fedjax_mri.serve import access, app, runs, store, training
from fedjax_mri.serve.server import Server
from fedjax_mri.serve.settings import Settings
from fedjax_mri.xai import methods

PRIVATE = 0o700
FOLDERS = ("jobs", "queue", "runs", "trainings", "temporary")  # of what is patients'
A_RUN = "give a run folder, which `fedjax-mri train` writes, or a folder with run folders"


class Choices(NamedTuple):
    """What is said on the command line beside settings."""

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
        tempfile.tempdir = str(server.home / "temporary")  # of uploads
        for run in runs.find(server.places).values():
            runs.ability(run)  # now, not while the first user waits
        for line in greeting(choices, server):
            say(line)
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
    for flag, paths in (("", choices.runs), ("--config ", choices.configs), ("--data ", choices.data)):
        for path in paths:
            if not path.exists():
                raise UserError(f"{flag}{path}: not there; check the path")
    for flag, names in (("--config", [one.stem for one in choices.configs]), ("--data", data_names(choices))):
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{flag}: two are called {twice[0]}, and the page could not tell them apart; rename one")
    for path in choices.runs:
        if not path.is_dir():
            raise UserError(f"{path}: is a file; {A_RUN}")
        if not runs.find([path]):
            raise UserError(f"{path}: there is no run in it; {A_RUN}")
    for name in settings.methods.split(","):
        methods.settings(name, "--methods")
    check_access(choices)
    check_port(choices.host, choices.port)


def data_names(choices: Choices) -> list[str]:
    """Returns the names by which users choose data."""
    return [path.resolve().name for path in choices.data]


def check_access(choices: Choices) -> None:
    """Raises UserError where others could use the page without a log-in, or TLS lacks what it needs."""
    if choices.host not in access.LOOPBACK and not (choices.token or choices.users):
        raise UserError(f"--host {choices.host}: others may reach it there, so give --token, or --users FILE")
    if choices.token and choices.users:
        raise UserError("--token and --users: give one of them")
    if (choices.certificate is None) != (choices.key is None):
        raise UserError("--certificate and --key: give both, as PEM files")
    if choices.certificate is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(choices.certificate, choices.key)
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"--certificate {choices.certificate}: cannot be used with its key ({error})") from None


def check_port(host: str, port: int) -> None:
    """Raises UserError where the page cannot listen there."""
    if not 0 < port < 2**16:
        raise UserError(f"--port {port}: give a port from 1 to 65535")
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); choose another"
        ) from None


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
    for name in FOLDERS:
        (home / name).mkdir(mode=PRIVATE, exist_ok=True)
    jax.config.update("jax_platforms", "cpu")  # in this process, which computes nothing: devices are the worker's
    store.recover(home)
    return Server(
        home=home,
        places=[path.resolve() for path in choices.runs] + [home / "runs"],
        choices=training.choices([path.resolve() for path in choices.configs]),
        data=dict(zip(data_names(choices), (path.resolve() for path in choices.data))),
        settings=settings,
        access=access.build(home, choices.token, choices.users, choices.certificate is not None),
        loopback=choices.host in access.LOOPBACK,
        uploading=[],
    )


def greeting(choices: Choices, server: Server) -> Iterator[str]:
    """Yields lines on where the page is, and how to log in."""
    scheme = "https" if server.access.secure else "http"
    host = f"[{choices.host}]" if ":" in choices.host else choices.host
    yield f"{scheme}://{host}:{choices.port}  (jobs are kept in {choices.home}; Ctrl-C stops the server)"
    if server.access.token:
        yield f"token: {server.access.token}"
    if not (server.loopback or server.access.secure):
        yield "warning: without --certificate and --key passwords and images can be read on the way"
