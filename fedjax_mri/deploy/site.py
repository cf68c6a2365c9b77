"""What a hospital says of itself: its file hospital.toml."""

import pathlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal

from fedjax_mri.core import dotted, fields
from fedjax_mri.core.errors import UserError
from fedjax_mri.run.config import Experiment


class Refusal(UserError):
    """Raised by a hospital that does not do what it is asked. Its line is sent to the server; other errors are not."""


PATHS = ("root", "table", "path", "folder")  # fields of data that begin in the folder of the file
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
RandomKey = Literal["secret", "config"]  # of random numbers: drawn and kept by each side, or the config's seed


@dataclass(frozen=True)
class Site:
    """A hospital of the federation."""

    name: str = ""  # in messages, and of its folder
    client: int = -1  # its number in the federation, from 0; random numbers depend on it
    clients: int = 0  # hospitals of the federation
    superlink: str = ""  # HOST:PORT at which Flower's SuperLink awaits its SuperNode
    certificate: str = ""  # PEM file of the authority that signed the SuperLink's; "": no TLS, on this machine alone
    private_key: str = ""  # OpenSSH file of the key with which its SuperNode logs in; "": it does not
    random_key: RandomKey = "secret"
    lost_state: Literal["refuse", "fresh"] = "refuse"  # where what it kept from earlier rounds is not there any more
    data: dict[str, Any] = field(default_factory=dict)  # fields of the config's `data` that are others here


def read(path: pathlib.Path) -> Site:
    """Returns the site of a file, with absolute paths. Raises UserError with one line for each mistake."""
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path}: cannot be read; give the hospital.toml of a hospital, see docs/deploy.md") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no TOML: {error}") from None
    if found := mistakes(plain):
        raise UserError("\n".join(f"{path}: {one}" for one in found))
    home, site = path.parent.resolve(), Site(**plain)
    certificate, key = (name and str(home / name) for name in (site.certificate, site.private_key))
    data = {name: str(home / value) if name in PATHS else value for name, value in site.data.items()}
    return replace(site, certificate=certificate, private_key=key, data=data)


def mistakes(plain: Mapping[str, Any]) -> list[str]:
    """Returns a line for each mistake in the content of a hospital.toml."""
    data = plain.get("data", {})
    if not isinstance(data, dict):
        return [f"data={data!r}: must be a table, [data], of fields of the config's data such as root"]
    paths = {f"data.{name}": value for name, value in data.items() if name in PATHS}
    other = {name: value for name, value in plain.items() if name != "data"}
    if found := misfits(other, fields.kinds(Site)) + misfits(paths, dict.fromkeys(paths, str)):
        return found
    site, found = Site(**plain), []
    host, _, port = site.superlink.rpartition(":")
    if not site.name.replace("-", "").replace("_", "").isalnum():
        found.append(f"name={site.name!r}: give the hospital a name of letters, digits, - and _; a folder is named so")
    if not 0 <= site.client < site.clients:
        found.append(f"client={site.client}, clients={site.clients}: number the hospitals from 0 to clients - 1")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        found.append(f"superlink={site.superlink!r}: give HOST:PORT, such as fl.example.org:9092")
    elif not site.certificate and host not in LOOPBACK:
        found.append(f"certificate: without one all is sent in the clear to {host}; name the PEM file of its authority")
    if site.private_key and not site.certificate:
        found.append("private_key: a SuperNode logs in over TLS alone; name the certificate too")
    return found


def misfits(plain: Mapping[str, Any], known: Mapping[str, fields.Kind]) -> list[str]:
    """Returns a line for each of these settings that is not `known`, or whose value its annotation does not admit."""
    found = []
    for name, value in plain.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            found.append(
                f"{name}: no such field; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
            )
        elif fields.coerce(name, value, known[name]) is fields.INVALID:
            found.append(f"{name}={fields.in_few_words(value)}: must be {fields.describe_kind(known[name])}")
    return found


def with_own_data(config: Experiment, site: Site) -> Experiment:
    """Returns the config with the site's own data. Raises UserError on a field that the source does not have."""
    known = {f"data.{name}": kind for name, kind in fields.kinds(type(config.data)).items()}
    if found := misfits({f"data.{name}": value for name, value in site.data.items()}, known):
        kind = type(config.data).__name__
        raise UserError("\n".join(f"hospital.toml of {site.name}, for {kind}: {one}" for one in found))
    return replace(config, data=dotted.with_values(config.data, site.data))
