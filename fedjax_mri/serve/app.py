"""The web application: routes, who may use them, headers that protect, and errors as one line."""

import asyncio
import contextlib
import importlib.resources
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fedjax_mri.core import failures
from fedjax_mri.core.errors import UserError
from fedjax_mri.serve import access, dicomweb, pages, server, store, watching
from fedjax_mri.serve.server import Server

FREE = ("/login", "/health", "/static/")  # of pages that need no session
EXPIRY = 60.0  # seconds between two looks for jobs to be deleted
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


def build(found: Server) -> Starlette:
    """The application of a server."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with found.worker:
            expiry = asyncio.create_task(expire(found))
            yield
            expiry.cancel()

    static = str(importlib.resources.files(__package__).joinpath("static"))
    routes = [
        Route("/", lambda request: RedirectResponse("/convert")),
        Route("/health", health),
        Route("/login", show_login),
        Route("/login", log_in, methods=["POST"]),
        Route("/logout", log_out, methods=["POST"]),
        *pages.ROUTES,
        *watching.ROUTES,
        *dicomweb.ROUTES,
        Mount("/static", StaticFiles(directory=static)),
    ]
    handlers: Any = {HTTPException: refused, UserError: refused, Exception: failed}
    app = Starlette(routes=routes, middleware=[Middleware(Guard)], exception_handlers=handlers, lifespan=lifespan)
    app.state.server = found
    return app


async def expire(found: Server) -> None:
    """Deletes old jobs again and again."""
    while True:
        await asyncio.to_thread(store.expire, found.home, found.settings.keep_hours)
        await asyncio.sleep(EXPIRY)


class Guard:
    """Lets requests pass that may, each with its session, and adds the headers that protect a page to all answers."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        found = server.server(request)
        cookie: list[str] = []

        async def protected(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                for one in cookie:
                    headers.append("Set-Cookie", one)
            await send(message)

        refusal = forbidden(request, found)
        if refusal is None and not request.url.path.startswith("/dicomweb/"):
            known = access.session(found.access, request.cookies)
            if known is None and found.access.open and not request.url.path.startswith(FREE[1:]):
                known = access.new_session(found.access)
                cookie.append(cookie_of(found, known))
            scope.setdefault("state", {})["session"] = known
            if known is None and not request.url.path.startswith(FREE):
                refusal = RedirectResponse("/login", 303) if request.method == "GET" else line(request, 403, LOG_IN)
        await (refusal or self.app)(scope, receive, protected)


LOG_IN = "Log in first."


def forbidden(request: Request, found: Server) -> Response | None:
    """The refusal of a request that came by another name or from another site's page; None where it may pass."""
    host = request.headers.get("host", "")
    if found.loopback and (request.url.hostname or "") not in access.LOOPBACK:
        return line(request, 403, "This page answers to localhost alone.")
    origin = request.headers.get("origin")
    other = origin is not None and origin.partition("://")[2] != host
    if request.method not in ("GET", "HEAD") and (other or request.headers.get("sec-fetch-site") == "cross-site"):
        return line(request, 403, "This request came from another site's page.")
    return None


def cookie_of(found: Server, session: access.Session) -> str:
    """The header that sets the cookie of a session."""
    secure = "; Secure" if found.access.secure else ""
    lasts = "; Max-Age=31536000" if found.access.open else f"; Max-Age={3600 * access.HOURS}"
    return f"{found.access.cookie}={session.cookie}; Path=/; HttpOnly; SameSite=Strict{secure}{lasts}"


def line(request: Request, status: int, text: str, headers: Any = None) -> Response:
    """An error as one line, on a page or for programs."""
    if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/dicomweb/"):
        answer: Response = JSONResponse({"error": text}, status)
    else:
        answer = server.page(request, "error.html", status, line=text, title=HTTPStatus(status).phrase)
    answer.headers.update(headers or {})
    return answer


async def refused(request: Request, error: Exception) -> Response:
    """The answer to what the user can correct."""
    if isinstance(error, HTTPException):
        return line(request, error.status_code, error.detail, error.headers)
    return line(request, 422, str(error))


async def failed(request: Request, error: Exception) -> Response:
    """The answer to a fault of ours, whose traceback goes to HOME/traceback.txt."""
    failures.keep_traceback(error, server.server(request).home)
    return line(request, 500, "The server failed; its owner finds the reason in traceback.txt.")


async def health(request: Request) -> Response:
    """Whether the server works, and how long its queue is."""
    found = server.server(request)
    state = found.worker.state
    content = {"status": "ok" if state != "down" else "degraded", "worker": state}
    return JSONResponse(content | {"queue": len(store.queued(found.home)), "limit": found.settings.queue})


async def show_login(request: Request) -> Response:
    """The form to log in."""
    if server.server(request).access.open:
        return server.see("/convert")
    return server.page(request, "login.html", line="", token=bool(server.server(request).access.token))


async def log_in(request: Request) -> Response:
    """Starts a session, where name and password, or the token, are right."""
    found = server.server(request)
    if found.access.open or int(request.headers.get("content-length", 10**9)) > 10_000:
        raise HTTPException(400, "Nobody has to log in here.")
    fields = await request.form(max_files=0)
    name, password = str(fields.get("name", "")), str(fields.get("password", ""))
    address = request.client.host if request.client else ""
    seconds = access.wait(found.access, address, f"name {name}")
    if seconds > 0:
        text = "Too many failed log-ins: wait a minute."
        raise HTTPException(429, text, {"Retry-After": str(int(seconds) + 1)})
    async with LOGINS:
        user = await asyncio.to_thread(access.log_in, found.access, name, password, address)
    if user is None:
        text = "This token is wrong." if found.access.token else "Name or password is wrong."
        return server.page(request, "login.html", 403, line=text, token=bool(found.access.token))
    answer = server.see("/convert")
    answer.headers.append("Set-Cookie", cookie_of(found, access.new_session(found.access, user)))
    return answer


LOGINS = asyncio.Semaphore(2)  # argon2 takes much memory


async def log_out(request: Request) -> Response:
    """Ends the session of this browser."""
    await server.form(request)
    answer = server.see("/login")
    answer.delete_cookie(server.server(request).access.cookie)
    return answer
