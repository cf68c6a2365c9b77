"""Who may use the page: sessions, tokens against forged requests, passwords, and limits on guesses.

On the loopback interface nobody logs in, and each browser is a user of its own. Elsewhere there is a token or a file
of users with argon2 hashes. A session is a cookie that Starlette signs, so a restart ends none; a user who is removed
or gets a new password is out at once, since the session holds a digest of the hash.
"""

import base64
import functools
import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from starlette.exceptions import HTTPException

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError

LOGIN_SECONDS = 12 * 3600  # that a log-in lasts
BROWSER_SECONDS = 365 * 24 * 3600  # that a browser is known where nobody logs in: its jobs have no other key
FAILURES, WINDOW = 5, 60.0  # failed log-ins of an address or a name within so many seconds, after which all wait
NAME = re.compile(r"[\w.@-]{1,64}")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_USER = "token"
HASHER = PasswordHasher()
NOBODY = HASHER.hash(secrets.token_hex(16))  # verified for unknown names, which then take as long as known ones


class Access(NamedTuple):
    """Tells who may use the page, and how they prove it."""

    secret: str  # signs sessions
    token: str  # "" without one
    users_file: Path | None
    secure: bool  # TLS: cookies are for it alone
    failures: list[tuple[str, float]]  # address or name, and time, of failed log-ins

    @property
    def open(self) -> bool:
        """Whether nobody has to log in."""
        return not self.token and self.users_file is None

    @property
    def hashes(self) -> Mapping[str, str]:
        """Returns the argon2 hashes of all who may log in, by name."""
        if self.token:
            return {TOKEN_USER: hash_of_token(self.token)}
        return users(self.users_file) if self.users_file else {}


@functools.cache
def hash_of_token(token: str) -> str:
    """Returns the hash of a token, each time the same, so that sessions outlive the server."""
    return HASHER.hash(token, salt=hashlib.sha256(token.encode()).digest())


def read_secret(path: Path) -> str:
    """Returns the secret in a file that only this user reads; a new one where there is none."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(32), encoding="ascii")
    return path.read_text(encoding="ascii").strip()


def users(path: Path) -> dict[str, str]:
    """Returns the argon2 hashes of users by name. Raises UserError where the file holds something else."""
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--users {path}: not there; add --add-user NAME to write it") from None
    except (OSError, ValueError):
        hashes = None
    if not isinstance(hashes, dict) or not all(str(one).startswith("$argon2") for one in hashes.values()):
        raise UserError(f"--users {path}: holds no users; write it by --add-user NAME")
    return hashes


def add_user(path: Path, name: str, password: str) -> None:
    """Adds a user to a file, or changes a password. Raises UserError on names and passwords that are too simple."""
    if not NAME.fullmatch(name):
        raise UserError(f"--add-user {name}: give up to 64 letters, digits and . _ @ -")
    if len(password) < 8:
        raise UserError("the password must have 8 characters or more")
    hashes = users(path) if path.exists() else {}
    path.touch(mode=0o600)
    mode = path.stat().st_mode
    disk.write_json(path, hashes | {name: HASHER.hash(password)})
    path.chmod(mode)


def start_session(access: Access, session: dict[str, Any], user: str = "") -> None:
    """Makes a session that of a user; without a name, of a browser that is a user of its own."""
    session.clear()
    session |= {"user": user or f"browser-{secrets.token_hex(16)}", "csrf": secrets.token_hex(32)}
    session["proof"] = proof(access, session["user"])


def proof(access: Access, user: str) -> str | None:
    """Returns what a user's session must hold, which differs for each password; None of an unknown user."""
    known = access.hashes.get(user, "" if access.open else None)
    return None if known is None else hashlib.sha256(known.encode()).hexdigest()


def is_valid(access: Access, session: Mapping[str, Any]) -> bool:
    """Returns whether a session is of a user who is known, by the same password."""
    return "proof" in session and session["proof"] == proof(access, session["user"])


def log_in(access: Access, name: str, password: str, address: str) -> str | None:
    """Returns the user whose name and password, or token, these are; None where they are wrong, which is counted.

    Raises HTTPException where the address or the name has been wrong too often.
    """
    name, now = TOKEN_USER if access.token else name, time.monotonic()
    access.failures[:] = [(one, at) for one, at in access.failures if now - at < WINDOW]
    both = (address, f"name {name}")
    for who in both:
        times = [at for one, at in access.failures if one == who]
        if len(times) >= FAILURES:
            seconds = int(WINDOW - (now - times[-FAILURES])) + 1
            text = f"Too many failed log-ins: try again in {seconds} s."
            raise HTTPException(429, text, {"Retry-After": str(seconds)})
    known = access.hashes.get(name)
    if verify(known or NOBODY, password) and known:
        return name
    access.failures.extend((who, now) for who in both)
    return None


@functools.lru_cache(1000)  # programs send name and password with each request, and argon2 is slow on purpose
def verify(hashed: str, password: str) -> bool:
    """Returns whether a password has that hash."""
    try:
        return HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


def of_header(access: Access, header: str, address: str) -> str | None:
    """Returns the user of a DICOMweb client, by HTTP's Basic with name and password, or Bearer with the token."""
    if access.open:
        return "dicomweb"
    scheme, _, text = header.partition(" ")
    name, password = "", text
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(text).decode().partition(":")
        except ValueError:
            return None
    return log_in(access, name, password, address)
