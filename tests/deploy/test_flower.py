"""Four SuperNodes of Flower and a SuperLink on this machine, over TLS, give what the simulation gives."""

import contextlib
import datetime
import ipaddress
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hospitals import NAMES, deploy, simulated

from fedjax_mri.core import trees
from fedjax_mri.deploy import federation as deployed
from fedjax_mri.deploy import node
from fedjax_mri.run import restore

FLAGS = {
    "fedavg": [],
    "fedprox": ["--fed.algorithm", "fedprox", "--algorithm.mu", "0.5"],
    "private": ["--fed.privacy", "client", "--privacy.epsilon", "0", "--privacy.noise", "0.1"],
    "scaffold": ["--fed.algorithm", "scaffold"],
}
DIES = "turin", "scaffold"  # this hospital dies after the first round of this experiment
PATIENCE_S = 300  # of wall time, on a machine that does other things


def write_certificates(folder: pathlib.Path) -> None:
    """Writes an authority's certificate, and the SuperLink's that it has signed, with its key."""
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now, name = datetime.datetime.now(datetime.UTC), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])

    def certificate(key, subject: str, is_authority: bool) -> x509.Certificate:
        subject_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = x509.CertificateBuilder().subject_name(name if is_authority else subject_name).issuer_name(name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        return builder.add_extension(names, critical=False).sign(authority, hashes.SHA256())

    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    folder.mkdir(exist_ok=True)
    (folder / "ca.crt").write_bytes(certificate(authority, "test", True).public_bytes(pem))
    (folder / "server.pem").write_bytes(certificate(own, "superlink", False).public_bytes(pem))
    (folder / "server.key").write_bytes(own.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


class Processes:
    """Programs that a test has started, each in a session of its own, and their logs."""

    def __init__(self, logs: pathlib.Path) -> None:
        self.logs, self.running = logs, dict[str, subprocess.Popen]()

    def start(self, name: str, script: pathlib.Path) -> None:
        flags = "--xla_cpu_multi_thread_eigen=false --xla_cpu_prefer_vector_width=256"
        own = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flags}", "OMP_NUM_THREADS": "1"}
        own |= {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(self.logs)}
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


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """The folders of a federation whose training is over; one hospital has died and come back meanwhile."""
    folder = tmp_path_factory.mktemp("flower")
    write_certificates(folder)
    port = node.free_port()
    out = deploy(folder, FLAGS, superlink=f"127.0.0.1:{port}", certificate=str(folder / "ca.crt"))
    server, name = out / "server", DIES[0]
    write_certificates_of = [
        (folder / file, server / "certificates" / file) for file in ("ca.crt", "server.pem", "server.key")
    ]
    for source, target in write_certificates_of:
        target.write_bytes(source.read_bytes())
    app = server / "app" / "pyproject.toml"
    app.write_text(app.read_text().replace('random-key = "secret"', 'random-key = "config"'))
    submit = folder / "submit.sh"
    submit.write_text(f'#!/bin/sh\ncd {server}\nFLWR_HOME="$PWD/flwr" exec flwr run app hospitals\n')
    submit.chmod(0o755)
    processes = Processes(folder)
    try:
        processes.start("superlink", server / "start.sh")
        for one in NAMES:
            processes.start(one, out / one / "start.sh")
        wait_for(lambda: "Fleet API" in (folder / "superlink.log").read_text(), processes)
        processes.start("submit", submit)
        lines = server / "runs" / DIES[1] / "rounds.jsonl"
        wait_for(lambda: lines.exists() and lines.read_text(), processes)
        processes.kill(name)
        processes.start(name, out / name / "start.sh")
        wait_for(lambda: len(lines.read_text().splitlines()) == 3, processes)
    finally:
        for one in list(processes.running):
            processes.kill(one)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_supernodes_give_what_the_simulation_gives(name, federation) -> None:
    trained = restore.restore(federation / "server" / "runs" / name)
    assert int(trained.state.round) == 3
    expected = trees.named(simulated(deployed.experiments(federation / "server")[name]))
    for leaf, value in trees.named(jax.device_get(trained.state.server.model)).items():
        np.testing.assert_allclose(value, expected[leaf], rtol=1e-5, atol=1e-5, err_msg=leaf)
    lines = (federation / "server" / "runs" / name / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["updates"] for line in lines] == [4, 4, 4]
