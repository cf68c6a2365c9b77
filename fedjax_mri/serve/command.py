"""The command `fedjax-mri serve`: checks what was asked, and runs the web server until it is stopped."""

import contextlib
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import filelock
import jax
import uvicorn

from fedjax_mri.core.errors import UserError
from fedjax_mri.serve import access, app, runs, store
from fedjax_mri.serve.server import Server
from fedjax_mri.serve.settings import Settings
from fedjax_mri.serve.supervisor import Supervisor

PRIVATE = 0o700


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
    check(choices)
    with held(choices.home):
        found = server(choices, settings)
        for run in runs.find(found.places).values():
            runs.ability(run)  # now, not while the first user waits
        for line in greeting(choices, found):
            say(line)
        sys.setswitchinterval(0.001)  # threads that unpack and draw let the pages answer
        uvicorn.Server(
            uvicorn.Config(
                app.build(found),
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
        ).run()


def check(choices: Choices) -> None:
    """Raises UserError on places that are not there, and on an open page off the loopback interface."""
    for flag, paths in (("", choices.runs), ("--config ", choices.configs), ("--data ", choices.data)):
        for path in paths:
            if not path.exists():
                raise UserError(f"{flag}{path}: not there; check the path")
    for flag, names in (
        ("--config", [one.stem for one in choices.configs]),
        ("--data", [one.name for one in choices.data]),
    ):
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{flag}: two are called {twice[0]}, and the page could not tell them apart; rename one")
    check_port(choices.host, choices.port)
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
def held(home: Path) -> Iterator[None]:
    """Keeps other servers from using HOME. Raises UserError where one does."""
    home.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    try:
        with filelock.FileLock(home / "lock", timeout=0):
            yield
    except filelock.Timeout:
        raise UserError(f"--out {home}: another server uses this folder; stop it, or choose another --out") from None


def server(choices: Choices, settings: Settings) -> Server:
    """The server of these choices; the jobs of an earlier one in the same folder go on."""
    home = choices.home.resolve()
    home.chmod(PRIVATE)  # what is in it is patients'
    jax.config.update("jax_platforms", "cpu")  # in this process, which computes nothing: devices are the worker's
    store.recover(home)
    places = [path.resolve() for path in choices.runs] + [home / "runs"]
    (home / "runs").mkdir(exist_ok=True)
    known = access.build(home, choices.token, choices.users, choices.certificate is not None)
    return Server(
        home=home,
        places=places,
        configs={path.stem: path.resolve() for path in choices.configs},
        data={path.name: path.resolve() for path in choices.data},
        settings=settings,
        access=known,
        loopback=choices.host in access.LOOPBACK,
        worker=Supervisor(home, places, settings),
        uploading=[],
    )


def greeting(choices: Choices, found: Server) -> Iterator[str]:
    """Lines on where the page is, and how to log in."""
    scheme = "https" if found.access.secure else "http"
    host = f"[{choices.host}]" if ":" in choices.host else choices.host
    yield f"{scheme}://{host}:{choices.port}  (jobs are kept in {choices.home}; Ctrl-C stops the server)"
    if found.access.token:
        yield f"token: {found.access.token}"
    if not (found.loopback or found.access.secure):
        yield "warning: without --certificate and --key passwords and images can be read on the way"
