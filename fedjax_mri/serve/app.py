"""The web application: routes, who may use them, headers that protect, and errors as one line."""

import asyncio
import contextlib
import importlib.resources
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fedjax_mri.core import disk, failures
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import config as configs
from fedjax_mri.serve import access, dicomweb, job_pages, run_pages, scheduler, shared, store
from fedjax_mri.serve.scheduler import STATE
from fedjax_mri.serve.shared import Server, server_of

FREE = ("/login", "/health", "/static/", "/dicomweb/")  # what needs no session
PAUSE = 1.0  # seconds before a worker that died is started again
LOGIN_BYTES = 10_000
LOGINS = asyncio.Semaphore(2)  # at a time, as argon2 takes much memory
LOG_IN = "Log in first: open /login in a browser."
PLAIN = {  # what Starlette's own errors mean
    404: "There is no such page: check the address, or use the links of a page.",
    405: "This address is of another kind of request: use the links and buttons of a page.",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def build(server: Server) -> Starlette:
    """Returns the application of a server."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(keep_worker(server))
        yield
        task.cancel()
        await asyncio.wait([task])

    known = server.access
    sessions = Middleware(
        SessionMiddleware,
        secret_key=known.secret,
        session_cookie="__Host-session" if known.secure else "session",
        max_age=access.BROWSER_SECONDS if known.open else access.LOGIN_SECONDS,
        same_site="strict",
        https_only=known.secure,
    )
    routes = [
        Route("/", lambda request: RedirectResponse("/convert")),
        Route("/health", health),
        Route("/login", show_login),
        Route("/login", log_in, methods=["POST"]),
        Route("/logout", log_out, methods=["POST"]),
        *job_pages.ROUTES,
        *run_pages.ROUTES,
        *dicomweb.ROUTES,
        Mount("/static", StaticFiles(directory=str(importlib.resources.files(__package__).joinpath("static")))),
    ]
    handlers: Any = {HTTPException: refused, UserError: refused, Exception: failed}
    middleware = [sessions, Middleware(BaseHTTPMiddleware, dispatch=guard)]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)
    app.state.server = server
    return app


async def keep_worker(server: Server) -> None:
    """Runs worker processes one after the other; when this task is cancelled, the last one is killed.

    What that held is done again by the next one; what one held when it died is counted.
    """
    words = {"places": [str(one) for one in server.places], "settings": configs.to_dict(server.settings)}
    while True:
        disk.write_text(server.home / STATE, "starting")
        process = subprocess.Popen(  # not by asyncio: other event loops fork, which JAX's threads forbid
            [sys.executable, "-m", "fedjax_mri.serve.worker", str(server.home)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the server, which ends it
        )
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{json.dumps(words)}\n".encode())
                process.stdin.flush()
            await asyncio.to_thread(process.wait)
        finally:
            process.kill()
            disk.write_text(server.home / STATE, "down")
        scheduler.count_crash(server.home)
        await asyncio.sleep(PAUSE)


async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answers requests that may pass, each with its session; all answers get the headers that protect a page."""
    response = refusal(request) or await answer(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def refusal(request: Request) -> Response | None:
    """Returns the answer to a request by another name, from another site's page or without a session.

    It is None where the request may pass.
    """
    server, posts = server_of(request), request.method not in ("GET", "HEAD")
    if server.loopback and (request.url.hostname or "") not in access.LOOPBACK:
        return line(request, 403, "This page answers to localhost alone: open it by that name.")
    origin = request.headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != request.headers.get("host", "")
    if posts and (foreign or request.headers.get("sec-fetch-site") == "cross-site"):
        return line(request, 403, "This request came from another site's page: use this site's own pages.")
    if access.is_valid(server.access, request.session):
        return None
    request.session.clear()
    if request.url.path.startswith(FREE):
        return None
    if server.access.open:
        access.start_session(server.access, request.session)
        return None
    return line(request, 403, LOG_IN) if posts else RedirectResponse("/login", 303)


def line(request: Request, status: int, text: str, headers: Any = None) -> Response:
    """Returns an error as one line, on a page or for programs."""
    if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/dicomweb/"):
        answer: Response = JSONResponse({"error": text}, status)
    else:
        answer = shared.page(request, "error.html", status, line=text, title=HTTPStatus(status).phrase)
    answer.headers.update(headers or {})
    return answer


async def refused(request: Request, error: Exception) -> Response:
    """Answers what the user can correct."""
    if not isinstance(error, HTTPException):
        return line(request, 422, str(error))
    status, text = error.status_code, error.detail
    if text == HTTPStatus(status).phrase:
        text = PLAIN.get(status, text)
    return line(request, status, text, error.headers)


async def failed(request: Request, error: Exception) -> Response:
    """Answers where a fault of ours occurred, whose traceback goes to HOME/traceback.txt."""
    failures.keep_traceback(error, server_of(request).home)
    return line(request, 500, "The server failed: tell its owner, who finds the reason in traceback.txt.")


async def health(request: Request) -> Response:
    """Answers whether the server works, and how long its queue is."""
    server = server_of(request)
    state = (server.home / STATE).read_text(encoding="utf-8")
    content = {"status": "degraded" if state == "down" else "ok", "worker": state}
    return JSONResponse(content | {"queue": len(store.queued(server.home)), "limit": server.settings.queue})


async def show_login(request: Request) -> Response:
    """Shows the form to log in."""
    if server_of(request).access.open:
        return shared.redirect("/convert")
    return shared.page(request, "login.html", line="", token=bool(server_of(request).access.token))


async def log_in(request: Request) -> Response:
    """Starts a session, where name and password, or the token, are right."""
    known = server_of(request).access
    if known.open:
        return shared.redirect("/convert")
    fields = await shared.form(request, LOGIN_BYTES)
    name, password = fields.get("name", ""), fields.get("password", "")
    address = request.client.host if request.client else ""
    async with LOGINS:
        user = await asyncio.to_thread(access.log_in, known, name, password, address)
    if user is None:
        text = "This token is wrong." if known.token else "Name or password is wrong."
        return shared.page(request, "login.html", 403, line=text, token=bool(known.token))
    access.start_session(known, request.session, user)
    return shared.redirect("/convert")


async def log_out(request: Request) -> Response:
    """Ends the session of this browser."""
    await shared.checked_form(request)
    request.session.clear()
    return shared.redirect("/login")
