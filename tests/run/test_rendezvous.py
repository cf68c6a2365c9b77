"""Processes that meet at the start of a run: who is missing, who is too many, and what is in the way is one line."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import launch, processes, rendezvous
from fedjax_mri.run.rendezvous import ProcessPlace


def free_port() -> int:
    return processes.placed(launch.local(1)[0]).port


def place(index: int, count: int, port: int, host: str = "localhost") -> ProcessPlace:
    return ProcessPlace(index, count, host, port, f"--distributed {index}/{count}@{host}:{port}")


def outcome(where: ProcessPlace, seconds: float = 20) -> str:
    """What becomes of one process: its error, or nothing."""
    try:
        rendezvous.meet(where, seconds, lambda line: None)
    except UserError as error:
        return str(error)
    return ""


def outcomes(*places: ProcessPlace) -> list[str]:
    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(outcome, places))


def test_processes_meet_in_any_order() -> None:
    port = free_port()
    assert outcomes(*(place(index, 5, port) for index in (3, 1, 0, 4, 2))) == 5 * [""]
    assert outcome(place(0, 1, port)) == ""  # one alone needs nobody


def test_two_with_the_same_index_are_a_line_in_each() -> None:
    port = free_port()
    found = outcomes(place(0, 4, port), place(2, 4, port), place(2, 4, port))
    assert len(set(found)) == 1 and found[0].endswith("two processes have INDEX 2; give each its own, 0 to 3")


def test_another_count_is_a_line_in_each() -> None:
    port = free_port()
    found = outcomes(place(0, 3, port), place(1, 2, port))
    assert len(set(found)) == 1 and "process 1 has COUNT 2 and process 0 has 3; give all one COUNT" in found[0]


def test_a_port_in_use_is_a_line_at_once() -> None:
    with socket.create_server(("", 0)) as taken:
        port, start = taken.getsockname()[1], time.monotonic()
        found = outcome(place(0, 2, port))
    assert f"port {port} cannot be used (Address already in use)" in found and "choose another port" in found
    assert time.monotonic() - start < 10  # of the 20 s that it may take to meet
    assert "cannot be used" in outcome(place(0, 2, 99_999))


def test_a_host_that_nobody_knows_is_a_line_soon(monkeypatch) -> None:
    monkeypatch.setattr(rendezvous, "NAME_S", 0.2)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "no host is named 'no-such-host.invalid'" in outcome(place(1, 2, 1234, "no-such-host.invalid"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # where a name appears with its pod
    assert "has not been at no-such-host.invalid:1234 within" in outcome(place(1, 2, 1234, "no-such-host.invalid"), 0.5)


def test_who_has_not_come_is_said_soon_and_named_at_the_end(monkeypatch) -> None:
    monkeypatch.setattr(rendezvous, "QUIET_S", 0.1)  # so soon that the other one may not have come on a busy machine
    port, said = free_port(), list[str]()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(outcome, place(2, 4, port))
        with pytest.raises(UserError, match=rf"no process with INDEX 1, 3 has come to localhost:{port} within [3-9] s"):
            rendezvous.meet(place(0, 4, port), 3, said.append)
        assert "no process with INDEX 1, 3" in other.result()
    assert len(said) == 1
    assert re.fullmatch(rf"waiting for [23] of 4 processes at localhost:{port}: .*, for 3 s at most .*", said[0])


def test_a_process_0_that_never_comes_is_a_line() -> None:
    port = free_port()
    assert f"process 0 has not been at localhost:{port} within" in outcome(place(1, 2, port), 0.5)


def test_one_that_ends_while_it_waits_may_come_again() -> None:
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(outcome, place(0, 3, port))
        with connected(port) as gone:
            gone.sendall(b"fedjax-mri 1/3\n")
        time.sleep(3 * rendezvous.PAUSE_S)
        others = [pool.submit(outcome, place(index, 3, port)) for index in (1,)]
        assert outcome(place(2, 3, port)) == first.result() == others[0].result() == ""


def connected(port: int) -> socket.socket:
    """A connection to a process 0 that may not listen yet."""
    for _ in range(100):
        try:
            return socket.create_connection(("localhost", port))
        except OSError:
            time.sleep(0.02)
    raise AssertionError("nobody listens")


def test_other_programs_do_not_disturb_and_are_not_taken_for_a_process_0() -> None:
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(outcome, place(0, 2, port))
        with connected(port) as scanner:
            scanner.sendall(b"GET / HTTP/1.1\r\n\n")
            assert pool.submit(outcome, place(1, 2, port)).result() == first.result() == ""
    with socket.create_server(("localhost", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"\x00\x12\xff\n"), daemon=True).start()
        assert "another program uses the port" in outcome(place(1, 2, server.getsockname()[1]))


SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[3-4],other",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


def test_the_place_that_a_cluster_gives_is_that_of_jax(monkeypatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert processes.detected(1) == ProcessPlace(5, 8, "node3", 61440 + 77, "--distributed")


@pytest.mark.slow
def test_a_command_that_nobody_joins_says_so_and_ends(tmp_path) -> None:
    """As a user starts it, with the time they give."""
    (tmp_path / "none.py").write_text("config = None")
    where = launch.local(2)[0]
    flags = ["train", str(tmp_path / "none.py"), "--distributed", where, "--join-timeout", "2"]
    command = [sys.executable, "-m", "fedjax_mri", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"error: --distributed {where}: no process with INDEX 1 has come to localhost:")
    assert done.stdout.startswith("waiting for 1 of 2 processes at localhost:")
