"""What all pages share: the server's settings, forms that were checked, new jobs, and templates that are filled."""

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
from starlette.responses import RedirectResponse, Response
from starlette.templating import Jinja2Templates

from fedjax_mri.report.page import number
from fedjax_mri.serve import runs, store
from fedjax_mri.serve.access import Access
from fedjax_mri.serve.settings import Settings
from fedjax_mri.serve.store import Job
from fedjax_mri.serve.training import Choice

RUNS_SECONDS = 2.0  # for which the list of runs is kept
FORM_BYTES = 100_000


class Server(NamedTuple):
    """Holds all that the pages know."""

    home: Path
    places: list[Path]  # of runs
    choices: dict[str, Choice]  # experiments that users may train, by title
    data: dict[str, Path]  # folders that they may train on, by name
    settings: Settings
    access: Access
    loopback: bool
    uploading: list[Path]  # the folders of uploads that are under way


def server_of(request: Request) -> Server:
    """Returns the server that answers a request."""
    server: Server = request.app.state.server
    return server


def user_of(request: Request) -> str:
    """Returns the user of a request; the guard lets none pass without."""
    return str(request.session["user"])


def job_of(request: Request) -> Job:
    """Returns the job that the path names, if it is the user's own. Raises HTTPException otherwise."""
    job = store.find(server_of(request).home, user_of(request), request.path_params["job"])
    if job is None:
        raise HTTPException(404, "No such job: it was deleted, or is not yours.")
    return job


def item_of(request: Request, job: Job) -> dict[str, Any]:
    """Returns the finished item that the path names. Raises HTTPException where there is none."""
    item = store.item(job, request.path_params["number"])
    if item is None or item["state"] != "done":
        raise HTTPException(404, "No such result: the file was refused, or is not ready.")
    return item


def check_csrf(request: Request, token: Any) -> None:
    """Raises HTTPException on a form that this server did not give to this session."""
    if not isinstance(token, str) or not hmac.compare_digest(token.encode(), request.session["csrf"].encode()):
        text = "This form is of an earlier visit: reload the page (F5), fill in the form again, and send it."
        raise HTTPException(403, text)


async def form(request: Request, most: int = FORM_BYTES) -> dict[str, str]:
    """Returns the fields of a small form. Raises HTTPException where it has more bytes, or is damaged."""
    if int(request.headers.get("content-length", 10**9)) > most:
        raise HTTPException(413, f"This form has more than {most // 1000} kB: fill in less text.")
    try:
        fields = await request.form(max_files=0)
    except HTTPException:
        raise HTTPException(400, "This form is damaged: reload the page (F5), and send it again.") from None
    return {name: value for name, value in fields.items() if isinstance(value, str)}


async def checked_form(request: Request) -> dict[str, str]:
    """Returns the fields of a small form that this server gave to this session. Raises HTTPException on others."""
    fields = await form(request)
    check_csrf(request, fields.get("csrf"))
    return fields


@contextmanager
def draft(server: Server, owner: str) -> Iterator[Path]:
    """Gives the folder of a new job; one that is not accepted while entered is deleted.

    Raises HTTPException where the queue has no place for it.
    """
    if len(store.queued(server.home)) + len(server.uploading) >= server.settings.queue:
        raise HTTPException(503, "The queue is full: try again in a few seconds.", {"Retry-After": "5"})
    folder = store.draft(server.home, owner)
    server.uploading.append(folder)
    try:
        yield folder
    finally:
        server.uploading.remove(folder)
        if store.load(folder) is None:
            store.delete(folder)


def frame(request: Request) -> dict[str, Any]:
    """Returns what the frame of each page shows."""
    server, session = server_of(request), request.session
    known = {"user": session.get("user", ""), "csrf": session.get("csrf", ""), "path": request.url.path}
    return known | {"open": server.access.open, "trains": bool(server.choices)}


PAGES = Jinja2Templates(str(importlib.resources.files(__package__) / "templates"), context_processors=[frame])
PAGES.env.undefined, PAGES.env.trim_blocks, PAGES.env.lstrip_blocks = jinja2.StrictUndefined, True, True
PAGES.env.filters["number"] = number


def page(request: Request, name: str, status: int = 200, **content: Any) -> Response:
    """Returns the page that a template makes."""
    return PAGES.TemplateResponse(request, name, content, status)


def redirect(path: str) -> Response:
    """Sends the browser to another page after a form."""
    return RedirectResponse(path, 303)


def abilities(request: Request) -> dict[str, runs.Ability]:
    """Returns what each run can do, by name, as it was a moment ago."""
    return _abilities(tuple(server_of(request).places), int(time.monotonic() / RUNS_SECONDS))


@functools.lru_cache(2)
def _abilities(places: tuple[Path, ...], moment: int) -> dict[str, runs.Ability]:
    return {name: runs.ability(run) for name, run in runs.find(places).items()}
