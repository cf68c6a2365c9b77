"""Who may use the page: sessions in signed cookies, tokens against forged requests, passwords, and limits on guesses.

On the loopback interface nobody logs in, and each browser is a user of its own. Elsewhere there is a token or a file
of users with argon2 hashes. A session is a cookie that the server signs, so a restart ends none; a user who is removed
or gets a new password is out at once, since the signature covers the hash.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError

HOURS = 12  # of a session
FAILURES, WINDOW = 5, 60.0  # failed log-ins of an address or a name within so many seconds, after which all wait
NAME = re.compile(r"[\w.@-]{1,64}")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_USER = "token"
HASHER = PasswordHasher()
NOBODY = HASHER.hash(secrets.token_hex(16))  # verified for unknown names, which then take as long as known ones


class Access(NamedTuple):
    """How users are known."""

    secret: bytes  # signs sessions
    token: str  # "" without one
    users_file: Path | None
    secure: bool  # TLS: cookies are for it alone
    failures: dict[str, list[float]]  # address or name -> times of failed log-ins
    verified: dict[str, float]  # digest of credentials that were right -> when; argon2 is slow on purpose

    @property
    def open(self) -> bool:
        """Whether nobody has to log in."""
        return not self.token and self.users_file is None

    @property
    def cookie(self) -> str:
        """The cookie's name."""
        return "__Host-session" if self.secure else "session"


class Session(NamedTuple):
    """A browser that may use the page."""

    user: str  # the owner of its jobs
    cookie: str
    csrf: str  # to be sent with each form
    fresh: bool = False  # whether the cookie is still to be set


def build(home: Path, token: bool, users_file: Path | None, secure: bool) -> Access:
    """The access of a server that keeps its secrets in HOME. Raises UserError on a file of users that is none."""
    if users_file is not None:
        users(users_file)
    kept = read_secret(home / "token") if token else ""
    return Access(read_secret(home / "secret").encode(), kept, users_file, secure, {}, {})


def read_secret(path: Path) -> str:
    """The secret in a file that only this user reads; a new one where there is none."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(32), encoding="ascii")
    return path.read_text(encoding="ascii").strip()


def users(path: Path) -> dict[str, str]:
    """The argon2 hashes of users by name. Raises UserError where the file holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--users {path}: not there; add --add-user NAME to write it") from None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not all(str(one).startswith("$argon2") for one in found.values()):
        raise UserError(f"--users {path}: holds no users; write it by --add-user NAME")
    return found


def add_user(path: Path, name: str, password: str) -> None:
    """Adds a user to a file, or changes a password. Raises UserError on names and passwords that are too simple."""
    if not NAME.fullmatch(name):
        raise UserError(f"--add-user {name}: give up to 64 letters, digits and . _ @ -")
    if len(password) < 8:
        raise UserError("the password must have 8 characters or more")
    known = users(path) if path.exists() else {}
    if not path.exists():
        path.touch(mode=0o600)
    mode = path.stat().st_mode
    disk.write_json(path, known | {name: HASHER.hash(password)})
    path.chmod(mode)


def sign(access: Access, *words: str) -> str:
    """A signature of words."""
    return hmac.new(access.secret, "\0".join(words).encode(), hashlib.sha256).hexdigest()


def credential(access: Access, user: str) -> str | None:
    """What a user's sessions depend on: the password's hash, the token; None of a user who is not known any more."""
    if access.open:
        return "open"
    if access.token:
        return access.token if user == TOKEN_USER else None
    assert access.users_file is not None
    return users(access.users_file).get(user)


def new_session(access: Access, user: str = "") -> Session:
    """A session of a user; without a name, of a browser that is a user of its own."""
    nonce, ends = secrets.token_hex(16), str(int(time.time() + 3600 * HOURS))
    user = user or f"browser-{nonce}"
    ends = ends if not access.open else str(2**40)  # the jobs of a browser have no other key
    name = base64.urlsafe_b64encode(user.encode()).decode()
    mac = sign(access, user, ends, nonce, credential(access, user) or "")
    return Session(user, f"{name}.{ends}.{nonce}.{mac}", sign(access, "csrf", nonce), True)


def session(access: Access, cookies: Mapping[str, str]) -> Session | None:
    """The session that a cookie proves; None where it proves none."""
    cookie = cookies.get(access.cookie, "")
    try:
        name, ends, nonce, mac = cookie.split(".")
        user = base64.urlsafe_b64decode(name).decode()
        late = not cookie.isascii() or int(ends) < time.time()
    except ValueError:
        return None
    known = credential(access, user)
    if late or known is None or not hmac.compare_digest(mac, sign(access, user, ends, nonce, known)):
        return None
    return Session(user, cookie, sign(access, "csrf", nonce))


def wait(access: Access, *who: str) -> float:
    """Seconds that an address or a name has to wait before the next try; 0 where it need not."""
    now = time.monotonic()
    for one in who:
        recent = [at for at in access.failures.get(one, ()) if now - at < WINDOW]
        access.failures[one] = recent
        if len(recent) >= FAILURES:
            return WINDOW - (now - recent[0])
    if len(access.failures) > 10_000:  # many addresses: those that failed long ago are forgotten
        for one in [one for one, times in access.failures.items() if not times or now - times[-1] > WINDOW]:
            del access.failures[one]
    return 0.0


def log_in(access: Access, name: str, password: str, address: str) -> str | None:
    """The user whose name and password, or token, these are; None where they are wrong, which is counted."""
    if access.token:
        user = TOKEN_USER if hmac.compare_digest(password.encode(), access.token.encode()) else None
    else:
        assert access.users_file is not None
        known = users(access.users_file).get(name)
        user = name if verify(known or NOBODY, password) and known else None
    if user is None:
        for one in (address, f"name {name}"):
            access.failures.setdefault(one, []).append(time.monotonic())
    return user


def verify(hashed: str, password: str) -> bool:
    """Whether a password has that hash."""
    try:
        return HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


def of_header(access: Access, header: str, address: str) -> str | None:
    """The user of a DICOMweb client, by HTTP's Basic with name and password, or Bearer with the token."""
    if access.open:
        return "dicomweb"
    scheme, _, text = header.partition(" ")
    name, password = "", text
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(text).decode().partition(":")
        except ValueError:
            return None
    digest = sign(access, "credentials", name, password, credential(access, name or TOKEN_USER) or "")
    if time.monotonic() - access.verified.get(digest, -1e9) < 300:
        return name or TOKEN_USER
    user = log_in(access, name, password, address)
    if user is not None:
        access.verified[digest] = time.monotonic()
    return user
