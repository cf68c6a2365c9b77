"""Four SuperNodes of Flower and a SuperLink on this machine, over TLS, give what a simulation gives."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from hospitals import NAMES, deploy, simulated

from fedjax_mri.core import trees
from fedjax_mri.deploy import client, node
from fedjax_mri.run import runfolder
from fedjax_mri.run.checkpoint import Checkpoints

FLAGS = {
    "fedavg": [],
    "fedprox": ["--fed.algorithm", "fedprox", "--algorithm.mu", "0.5"],
    "personal": ["--fed.algorithm", "{own}"],  # FedPer with FedAdam on the server, in a file of the user's
    "private": ["--fed.privacy", "client", "--privacy.epsilon", "0", "--privacy.noise", "0.1"],
    "scaffold": ["--fed.algorithm", "scaffold"],
}
TRAINED = [  # together, one after the other
    ("private", "scaffold"),
    pytest.param(("fedavg", "fedprox", "personal"), marks=pytest.mark.thorough),
]
DIES = "turin"  # this hospital dies after the first round of the last experiment
PATIENCE_S = 300  # of wall time, on a machine that does other things
PATH = {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
CERTIFICATES, KEY, REGISTER = re.findall(r"```sh\n(.*?)```", PAGE, re.S)


def run(commands: str, folder: pathlib.Path) -> None:
    """Runs commands of the page for a server on this machine."""
    commands = commands.replace("DNS:fl.example.org", "IP:127.0.0.1")
    subprocess.run(["sh", "-ec", commands], cwd=folder, check=True, capture_output=True, env={**os.environ, **PATH})


class Processes:
    """Programs that a test has started, each in a session of its own, and their logs."""

    def __init__(self, logs: pathlib.Path) -> None:
        self.logs, self.running = logs, dict[str, subprocess.Popen]()

    def start(self, name: str, script: pathlib.Path) -> None:
        flags = "--xla_cpu_multi_thread_eigen=false --xla_cpu_prefer_vector_width=256"
        own = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flags}", "OMP_NUM_THREADS": "1"}
        own |= {**PATH, "HOME": str(self.logs)}
        own |= {
            "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
            "JAX_COMPILATION_CACHE_DIR": os.environ["XDG_CACHE_HOME"],
        }
        with (self.logs / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                [script], env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running[name].pid, signal.SIGKILL)
        self.running.pop(name).wait()

    def tail(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in self.logs.glob("*.log"))


def wait_for(condition, processes: Processes) -> None:
    """Waits until something holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        ended = {name: one.poll() for name, one in processes.running.items()}
        assert time.monotonic() < end and not any(ended.values()), f"{ended}\n{processes.tail()}"
        time.sleep(0.3)


@pytest.fixture(scope="module", params=TRAINED, ids=" and ".join)
def federation(request, tmp_path_factory):
    """Experiments, and the folders of a federation that has trained them while a hospital died and came back."""
    names, folder = request.param, tmp_path_factory.mktemp("flower")
    run(CERTIFICATES, folder)
    run(KEY, folder)
    flags = {name: FLAGS[name] for name in names}
    out = deploy(folder, flags, superlink=f"127.0.0.1:{node.free_port()}", certificate=f"{folder}/ca.crt")
    server = out / "server"
    for file in ("ca.crt", "server.pem", "server.key"):
        shutil.copy(folder / file, server / "certificates")
    bundle = server / "app" / "pyproject.toml"
    bundle.write_text(bundle.read_text().replace('random-key = "secret"', 'random-key = "config"'))
    submit = folder / "submit.sh"
    submit.write_text(f'#!/bin/sh\ncd {server}\nFLWR_HOME="$PWD/flwr" exec flwr run app hospitals\n')
    submit.chmod(0o755)
    processes = Processes(folder)
    try:
        processes.start("superlink", server / "start.sh")
        for one in NAMES:
            processes.start(one, out / one / "start.sh")
        wait_for(lambda: "Fleet API" in (folder / "superlink.log").read_text(), processes)
        run(REGISTER.replace("lyon.key.pub", str(folder / "lyon.key.pub")), server)
        processes.start("submit", submit)
        lines = server / "runs" / names[-1] / "rounds.jsonl"
        wait_for(lambda: lines.exists() and lines.read_text(), processes)
        processes.kill(DIES)
        processes.start(DIES, out / DIES / "start.sh")
        wait_for(lambda: len(lines.read_text().splitlines()) == 3, processes)
    finally:
        for one in list(processes.running):
            processes.kill(one)
    return names, out


@pytest.mark.slow
def test_supernodes_give_what_the_simulation_gives(federation) -> None:
    names, folder = federation
    for name in names:
        check(name, folder)


def check(name: str, folder: pathlib.Path) -> None:
    """Compares what the server and the hospitals have kept of an experiment with its simulation."""
    run = folder / "server" / "runs" / name
    found = Checkpoints(run).leaves()
    state = simulated(runfolder.read_config(folder / "server" / "experiments" / name))
    assert found["round"] == state.round == 3
    expected = {leaf: value for leaf, value in trees.named(state).items() if leaf.startswith("server.")}
    same({leaf: found[leaf] for leaf in expected}, expected)
    for place, one in enumerate(sorted(NAMES)):
        row = jax.tree.map(lambda leaf, place=place: leaf[place], state.clients)
        (kept,) = (folder / one / "state").glob(f"{name}-*/3.state")
        same(trees.named(client.load_state(kept, row).row), trees.named(row))
    assert [json.loads(line)["updates"] for line in (run / "rounds.jsonl").read_text().splitlines()] == [4, 4, 4]


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compares leaves by their names."""
    assert found.keys() == expected.keys()
    for leaf, value in expected.items():
        np.testing.assert_allclose(found[leaf], value, rtol=1e-5, atol=1e-5, err_msg=leaf)
