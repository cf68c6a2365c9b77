"""What `fedjax-mri deploy` writes: the folder of the server, and one for each hospital."""

import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.deploy import parts, site
from fedjax_mri.deploy.site import Site
from fedjax_mri.run import runfolder
from fedjax_mri.run.assemble import build_method
from fedjax_mri.run.config import Experiment

Say = Callable[[str], None]
APP = """[project]
name = "{name}"
version = "1.0.0"
description = "An experiment of fedjax-mri between hospitals."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedjax-mri"

[tool.flwr.app.components]
serverapp = "fedjax_mri.deploy.flower:server_app"
clientapp = "fedjax_mri.deploy.flower:client_app"

[tool.flwr.app.config]
folder = "."
clients = {clients}
experiment = "all"
round-seconds = 0.0
at-least = 1
seed = "secret"
"""
SERVER = """#!/bin/sh
# Starts the SuperLink; `flwr run app hospitals --stream` then starts the training. Both need FLWR_HOME as it is here.
cd "$(dirname "$0")"
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0
cat > flwr/config.toml <<END
[superlink]
default = "hospitals"

[superlink.hospitals]
address = "127.0.0.1:{control}"
{connection}
END
exec flower-superlink {safety} --fleet-api-address {host}:{port} --control-api-address 127.0.0.1:{control} \\
    --serverappio-api-address 127.0.0.1:{appio} --storage-dir flwr/files
"""
CERTIFIED = """--ssl-ca-certfile certificates/ca.crt --ssl-certfile certificates/server.pem \\
    --ssl-keyfile certificates/server.key"""
HOSPITAL = """#!/bin/sh
# Starts {name}'s SuperNode and works for it until it is stopped.
cd "$(dirname "$0")"
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0
exec python -m fedjax_mri.deploy.node .
"""
README_OF_SERVER = """This folder is for the server of {clients} hospitals. On its machine, with fedjax-mri[flower]:

1. Put ca.crt, server.pem and server.key into `certificates`, unless hospitals are on this machine alone.
2. `./start.sh` starts the SuperLink, which waits for the hospitals' SuperNodes.
3. In this folder, `FLWR_HOME=$PWD/flwr flwr run app hospitals --stream` starts the training. `app/pyproject.toml` says
   how long a round waits for a hospital. To go on after a stop, do 2 and 3 again.
4. `runs` holds the trained models. `runs/*/key` is secret: with it the noise of privacy can be taken off.

docs/deploy.md tells what each side sees.
"""
README_OF_HOSPITAL = """This folder is for {name}. On its machine, with fedjax-mri[flower]:

1. Look at `experiments`, what will be trained, and at `hospital.toml`; its files and images must be there.
2. `./start.sh` starts the SuperNode and works for it. It may be stopped and started at any time.
3. `state` holds what this hospital keeps of a run, and must not be lost before its end. `state/*/key` is secret.

docs/deploy.md tells what each side sees.
"""


def deploy(experiments: Mapping[str, Experiment], files: Sequence[pathlib.Path], out: pathlib.Path, say: Say) -> None:
    """Writes the folders of a federation. Raises UserError on a bad hospital.toml, and what cannot be deployed."""
    sites = [site.read(file) for file in files]
    check_together(sites, files)
    for name, config in experiments.items():
        if refused := parts.refusals(config):
            raise UserError("\n".join(f"{name}: {line}" for line in refused))
        build_method(config)
        for one in sites:
            site.with_own_data(config, one)
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
        write_script(folder / "start.sh", HOSPITAL.format(name=one.name))
        disk.write_text(folder / "README.md", README_OF_HOSPITAL.format(name=one.name))
        say(f"{folder}: for {one.name}, client {one.client} of {one.clients}")
    write_server(server, next(iter(experiments.values())).name, sites[0])
    say(f"{server}: for the server; start.sh starts the SuperLink, then `flwr run app hospitals --stream`")


def check_together(sites: Sequence[Site], files: Sequence[pathlib.Path]) -> None:
    """Raises UserError where two hospitals have one name or number, or they do not mean one federation."""
    for number, (one, file) in enumerate(zip(sites, files)):
        for field in ("clients", "superlink"):
            if getattr(one, field) != getattr(sites[0], field):
                raise UserError(f"{file}: {field}={getattr(one, field)!r}, {files[0]} has {getattr(sites[0], field)!r}")
        for field in ("name", "client"):
            if getattr(one, field) in [getattr(other, field) for other in sites[:number]]:
                raise UserError(f"{file}: {field}={getattr(one, field)!r} is another hospital's; give each its own")
        if one.name == "server":
            raise UserError(f"{file}: name='server': the folder of the server is named so; choose another")


def write_server(folder: pathlib.Path, title: str, one: Site) -> None:
    """Writes what the server starts: the bundle for `flwr run`, the connection that it uses, and the SuperLink's."""
    for name in ("app", "flwr", "certificates"):
        (folder / name).mkdir()
    host, _, port = one.superlink.rpartition(":")
    ports = {"port": int(port), "appio": int(port) - 1, "control": int(port) + 1}
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "experiment"
    disk.write_text(folder / "app" / "pyproject.toml", APP.format(name=name, clients=one.clients))
    connection = 'root-certificates = "$PWD/certificates/ca.crt"' if one.certificate else "insecure = true"
    safety, host = CERTIFIED if one.certificate else "--insecure", host if host in site.LOOPBACK else "0.0.0.0"
    write_script(folder / "start.sh", SERVER.format(connection=connection, safety=safety, host=host, **ports))
    disk.write_text(folder / "README.md", README_OF_SERVER.format(clients=one.clients))


def write_script(path: pathlib.Path, content: str) -> None:
    """Writes a program for the shell."""
    disk.write_text(path, content)
    os.chmod(path, 0o755)
