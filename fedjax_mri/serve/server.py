"""What all pages share: the server's state, forms that were checked, and templates that are filled."""

import asyncio
import functools
import hmac
import importlib.resources
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from fedjax_mri.report.page import number
from fedjax_mri.serve import runs, store
from fedjax_mri.serve.access import Access, Session
from fedjax_mri.serve.settings import Settings
from fedjax_mri.serve.store import Job
from fedjax_mri.serve.supervisor import Supervisor

MOMENT = 2.0  # seconds for which the list of runs is kept
RETRY = "5"  # seconds after which a client may ask again


class Server(NamedTuple):
    """All that the pages know."""

    home: Path
    places: list[Path]  # of runs
    configs: dict[str, Path]  # that users may train, by name
    data: dict[str, Path]  # that they may train on
    settings: Settings
    access: Access
    loopback: bool
    worker: Supervisor
    uploading: list[None]  # an element for each upload that is under way


def server(request: Request) -> Server:
    """The server that answers a request."""
    found: Server = request.app.state.server
    return found


def session(request: Request) -> Session:
    """The session of a request; the guard lets none pass without."""
    found: Session = request.state.session
    return found


def job_of(request: Request) -> Job:
    """The job that the path names, if it is the user's own. Raises HTTPException otherwise."""
    job = store.find(server(request).home, session(request).user, request.path_params["job"])
    if job is None:
        raise HTTPException(404, "No such job: it was deleted, or is not yours.")
    return job


def item_of(request: Request, job: Job) -> dict[str, Any]:
    """The finished item that the path names. Raises HTTPException where there is none."""
    found = store.item(job, request.path_params["number"])
    if found is None or found["state"] != "done":
        raise HTTPException(404, "No such result: the file was refused, or is not ready.")
    return found


def check_csrf(request: Request, token: Any) -> None:
    """Raises HTTPException on a form that this server did not give to this session."""
    if not isinstance(token, str) or not hmac.compare_digest(token.encode(), session(request).csrf.encode()):
        raise HTTPException(403, "This form has expired: load the page again, and send it once more.")


async def form(request: Request) -> dict[str, str]:
    """The fields of a small form, whose token is right."""
    if int(request.headers.get("content-length", 10**9)) > 100_000:
        raise HTTPException(413, "This form is too large.")
    fields = {name: value for name, value in (await request.form(max_files=0)).items() if isinstance(value, str)}
    check_csrf(request, fields.get("csrf"))
    return fields


@contextmanager
def admission(found: Server) -> Iterator[None]:
    """Keeps a place in the queue while a job is sent. Raises HTTPException where there is none."""
    if len(store.queued(found.home)) + len(found.uploading) >= found.settings.queue:
        raise HTTPException(503, "The queue is full: try again in a few seconds.", {"Retry-After": RETRY})
    found.uploading.append(None)
    try:
        yield
    finally:
        found.uploading.pop()


@functools.cache
def templates() -> jinja2.Environment:
    """The templates of all pages; what is filled in is escaped."""
    loader = jinja2.FileSystemLoader(str(importlib.resources.files(__package__).joinpath("templates")))
    found = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["number"] = number
    return found


def page(request: Request, name: str, status: int = 200, **content: Any) -> Response:
    """The page that a template makes."""
    known = getattr(request.state, "session", None)
    found = server(request)
    shared = {
        "session": known,
        "csrf": known.csrf if known else "",
        "path": request.url.path,
        "open": found.access.open,
        "trains": bool(found.configs),
    }
    return HTMLResponse(templates().get_template(name).render(shared | content), status)


def see(path: str) -> Response:
    """Sends the browser to another page after a form."""
    return RedirectResponse(path, 303)


async def find_runs(request: Request) -> dict[str, tuple[Path, runs.Ability]]:
    """All runs by name, with what each can do, as they were a moment ago."""
    places = tuple(server(request).places)
    return await asyncio.to_thread(_found, places, int(time.monotonic() / MOMENT))


@functools.lru_cache(2)
def _found(places: tuple[Path, ...], moment: int) -> dict[str, tuple[Path, runs.Ability]]:
    return {name: (run, runs.ability(run)) for name, run in runs.find(places).items()}
