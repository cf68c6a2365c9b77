"""One process at a time writes a folder, whoever else tries and however the first one ends."""

import json
import pathlib
import signal
import subprocess
import sys

import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import lock

HOLD = """
import pathlib, sys, time
from fedjax_mri.run import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def another_process(folder: pathlib.Path, seconds: float) -> subprocess.Popen:
    """A process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_made_for_nothing_goes_again(tmp_path) -> None:
    with lock.hold(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "lock.json").read_text())["process"]
    assert not (tmp_path / "run").exists()


def test_a_folder_with_files_stays_without_a_lock(tmp_path) -> None:
    with lock.hold(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_second_process_is_refused_and_told_by_whom(tmp_path) -> None:
    process = another_process(tmp_path, 60)
    refused = pytest.raises(UserError, match=f"process {process.pid} on .* writes this folder; stop it")
    with refused, lock.hold(tmp_path):
        pass
    process.kill()
    process.wait()
    with lock.hold(tmp_path):  # the lock of a process that was killed is nobody's
        pass


def test_it_waits_when_it_is_told_to(tmp_path) -> None:
    said = []
    process = another_process(tmp_path, 60)

    def say(line: str) -> None:  # the other one ends once this one waits
        said.append(line)
        process.terminate()

    with lock.hold(tmp_path, lock.Waiting(60), say):
        assert process.wait() == -signal.SIGTERM
    assert len(said) == 1 and f"waiting up to 60 s for process {process.pid}" in said[0]


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"host": "x"}', "\x00"])
def test_a_damaged_file_keeps_nobody_out(tmp_path, damaged) -> None:
    (tmp_path / "lock.json").write_text(damaged)
    (tmp_path / "lock").touch()
    with lock.hold(tmp_path):
        assert lock.read(tmp_path / "lock.json") is not None


@pytest.fixture
def quick(monkeypatch) -> None:
    """Heartbeats and their timeout of fractions of a second."""
    for name, value in (("HEARTBEAT", 0.05), ("HEARTBEAT_TIMEOUT", 0.4), ("POLL", 0.02)):
        monkeypatch.setattr(lock, name, value)


def elsewhere(folder: pathlib.Path) -> lock.Holder:
    """Another machine's holder, whose lock cannot be seen here."""
    holder = lock.this_process()._replace(host="node7", machine="node7 x", process=12)
    lock.write(folder / "lock.json", holder)
    return holder


def test_a_holder_on_another_machine_without_a_heartbeat_is_gone(tmp_path, quick) -> None:
    elsewhere(tmp_path)
    said = []
    with lock.hold(tmp_path, say=said.append):
        assert lock.read(tmp_path / "lock.json").host != "node7"
    assert "process 12 on node7" in said[0] and "watching for 0.4 s" in said[0]


@pytest.mark.parametrize("take_over", [False, True])
def test_a_living_holder_on_another_machine_keeps_it_unless_it_is_taken_over(
    tmp_path, quick, take_over, monkeypatch
) -> None:
    import threading

    monkeypatch.setattr(lock, "HEARTBEAT_TIMEOUT", 2.0)  # on a busy machine a thread may not come to its turn for long
    holder, ended = elsewhere(tmp_path), threading.Event()
    living = threading.Thread(target=lock.send_heartbeats, args=(tmp_path / "lock.json", holder, ended))
    living.start()
    try:
        if not take_over:
            with pytest.raises(UserError, match="process 12 on node7"), lock.hold(tmp_path, say=lambda line: None):
                pass
            return
        with lock.hold(tmp_path, lock.Waiting(take_over=True)):
            living.join(60)  # it sees that the folder is another's, and stops writing
            assert not living.is_alive()
            with pytest.raises(UserError, match="has taken over this folder"):
                lock.refuse_taken_over(tmp_path / "lock.json", holder)
    finally:
        ended.set()
        living.join()


def test_one_who_was_taken_over_leaves_the_other_s_file(tmp_path, quick) -> None:
    with lock.hold(tmp_path) as still_held:
        still_held()
        elsewhere(tmp_path)
        with pytest.raises(UserError, match="process 12 on node7"):
            still_held()
    assert lock.read(tmp_path / "lock.json").host == "node7"
