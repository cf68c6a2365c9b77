"""What `fedjax-mri deploy` writes: the folder of the server, and one for each hospital."""

import importlib.resources
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.deploy import federation, site
from fedjax_mri.deploy.site import Site
from fedjax_mri.run import runfolder
from fedjax_mri.run.assemble import build_method
from fedjax_mri.run.config import Experiment

Say = Callable[[str], None]
TLS = """--ssl-ca-certfile certificates/ca.crt --ssl-certfile certificates/server.pem \\
    --ssl-keyfile certificates/server.key"""


def deploy(experiments: Mapping[str, Experiment], files: Sequence[pathlib.Path], out: pathlib.Path, say: Say) -> None:
    """Writes the folders of a federation. Raises UserError on a bad hospital.toml, and what cannot be deployed."""
    sites = [site.read(file) for file in files]
    check_together(sites, files)
    for name, config in experiments.items():
        if refused := federation.refusals(config):
            raise UserError("\n".join(f"{name}: {line}" for line in refused))
        build_method(config)
    for absent in federation.check_data(experiments.values(), sites):
        say(f"{absent}; these data are checked where the SuperNode starts")
    server, folders = out / "server", [out / one.name for one in sites]
    for folder in (server, *folders):
        if folder.exists():
            raise UserError(f"{folder}: is there already, and may hold a run; remove it, or give another --out")
    for name, config in experiments.items():
        (server / "experiments" / name).mkdir(parents=True)
        runfolder.write_config(server / "experiments" / name, config, say)
    for one, file, folder in zip(sites, files, folders):
        shutil.copytree(server / "experiments", folder / "experiments")
        shutil.copy(file, folder / "hospital.toml")
        write_templates("hospital", folder, name=one.name)
        say(f"{folder}: for {one.name}, client {one.client} of {one.clients}")
    write_server(server, next(iter(experiments.values())).name, sites[0])
    say(f"{server}: for the server; start.sh starts the SuperLink, then `flwr run app hospitals --stream`")


def check_together(sites: Sequence[Site], files: Sequence[pathlib.Path]) -> None:
    """Raises UserError where two hospitals have one name or number, do not mean one federation, or some are missing."""
    for number, (one, file) in enumerate(zip(sites, files)):
        for field in ("clients", "superlink"):
            if getattr(one, field) != getattr(sites[0], field):
                raise UserError(f"{file}: {field}={getattr(one, field)!r}, {files[0]} has {getattr(sites[0], field)!r}")
        if bool(one.private_key) != bool(sites[0].private_key):
            raise UserError(f"{file}: private_key={one.private_key!r}: all hospitals log in with one, or none does")
        for field in ("name", "client"):
            if getattr(one, field) in [getattr(other, field) for other in sites[:number]]:
                raise UserError(f"{file}: {field}={getattr(one, field)!r} is another hospital's; give each its own")
        if one.name == "server":
            raise UserError(f"{file}: name='server': the folder of the server is named so; choose another")
    if missing := set(range(sites[0].clients)) - {one.client for one in sites}:
        numbers = ", ".join(map(str, sorted(missing)))
        raise UserError(f"{files[0]}: clients={sites[0].clients}, but no file is of client {numbers}; give one of each")


def write_server(folder: pathlib.Path, title: str, one: Site) -> None:
    """Writes what the server starts: the bundle for `flwr run`, and the SuperLink."""
    for name in ("flwr", "certificates"):
        (folder / name).mkdir()
    host, _, port = one.superlink.rpartition(":")
    write_templates(
        "server",
        folder,
        name=re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "experiment",
        clients=one.clients,
        connection='root-certificates = "$PWD/certificates/ca.crt"' if one.certificate else "insecure = true",
        safety=(TLS if one.certificate else "--insecure") + (" --enable-supernode-auth" if one.private_key else ""),
        host=host if host in site.LOOPBACK else "0.0.0.0",
        port=int(port),
        appio=int(port) - 1,
        control=int(port) + 1,
    )


def write_templates(kind: str, folder: pathlib.Path, **values: Any) -> None:
    """Writes the files of `templates/` for a "server" or a "hospital" into its folder, with these values in them."""
    with importlib.resources.as_file(importlib.resources.files(__package__) / "templates" / kind) as templates:
        for template in templates.rglob("*.template"):
            path = (folder / template.relative_to(templates)).with_suffix("")
            path.parent.mkdir(exist_ok=True)
            disk.write_text(path, template.read_text(encoding="utf-8").format(**values))
            path.chmod(0o755 if path.suffix == ".sh" else 0o644)
