"""Errors of the surroundings as a user meets them: one line, its exit code, and the traceback in a file."""

import ast
import errno
import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import jax
import pytest
from test_cli import last_line

from fedjax_mri.cli import commands as cli
from fedjax_mri.core import cache, disk, failures, signal_timeout
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.phantom import gallery
from fedjax_mri.run import config, experiment, stopping

HOME = pathlib.Path(__file__).parents[2]
FLAGS = "--data.clients 12 --sampling.cohort 5 --local.epochs 2 --rounds 1 --evaluate-every 1 --plan.tune-s 0"
SMALL = FLAGS.split()
TRAIN = ["train", str(HOME / "configs" / "synthetic.py"), *SMALL, "--out"]
COMMANDS = {  # each that makes its own folder or file
    "train": TRAIN,
    "sweep": ["sweep", str(HOME / "studies" / "biophysics.py"), "--out"],
    "phantom": ["phantom", "--sites", "1", "--size", "32", "--out"],
}


def xla_error(words: str) -> Exception:
    return jax.errors.JaxRuntimeError(words)


WORDS = {
    "full disk": (OSError(errno.ENOSPC, "No space left", "/a/b"), "/a/b: the disk is full; free space, then run"),
    "full disk, no name": (OSError(errno.ENOSPC, "No space left"), "the disk is full; free space, then run"),
    "no permission": (PermissionError(errno.EACCES, "Permission denied", "/a"), "/a: permission denied; change"),
    "read-only": (OSError(errno.EROFS, "Read-only", "/a"), "/a: this disk is read-only; choose another path"),
    "bad disk": (OSError(errno.EIO, "Input/output error", "/a"), "/a: Input/output error; check the disk"),
    "memory": (
        MemoryError("Unable to allocate 9 TiB"),
        r"out of memory \(Unable to .* 9 TiB\); .*--plan.memory-mb",
    ),
    "memory of a device": (
        xla_error("RESOURCE_EXHAUSTED: Out of memory allocating 9"),
        "out of memory .*--plan.clients",
    ),
    "compiler": (
        xla_error("INTERNAL: no\nsuch kernel"),
        r"failed \(INTERNAL: no such kernel\); try --plan.conv",
    ),
    "no device": (
        RuntimeError("Unable to initialize backend 'tpu': none"),
        "JAX finds no such device here; leave it unset",
    ),
    "package": (ImportError("cannot import name x"), r"a package is missing .*\(cannot import name x\); install"),
    "fault": (KeyError("lanes"), r"a fault of fedjax_mri \(KeyError: 'lanes'\); please report it"),
}


@pytest.mark.parametrize("case", WORDS)
def test_every_kind_of_error_has_its_words(case, tmp_path) -> None:
    error, words = WORDS[case]
    said = failures.one_line(error, tmp_path)
    assert re.search(words, said) and "\n" not in said
    assert said.endswith(f"; the traceback is in {tmp_path / 'traceback.txt'}")
    assert type(error).__name__ in (tmp_path / "traceback.txt").read_text(encoding="utf-8")


def test_the_message_of_a_user_error_is_the_line(tmp_path) -> None:
    assert failures.one_line(UserError("rounds=0:\n give more"), tmp_path) == "rounds=0: give more"
    assert not list(tmp_path.iterdir())


CONFIG = """
from dataclasses import dataclass
from fedjax_mri.core import disk
from fedjax_mri.run.config import Experiment

@dataclass(frozen=True)
class Mine:
    def build(self, seed):
        {statement}

config = Experiment(data=Mine())
"""


@pytest.mark.parametrize("statement", ["{}['patients']", "disk.write_text(None, '')", "open('/nowhere/at/all')"])
def test_an_error_of_a_user_s_code_names_its_line(statement, tmp_path, capsys) -> None:
    """Also where that code calls ours with something that ours cannot take."""
    path = tmp_path / "mine.py"
    path.write_text(CONFIG.format(statement=statement), encoding="utf-8")
    assert cli.main(["train", str(path), "--out", str(tmp_path / "run")]) == 1
    assert last_line(capsys).startswith(f"error: {path}, line 9, in build: ")


def test_a_fault_of_ours_asks_for_a_report_and_keeps_its_traceback(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(config, "load", {}.__getitem__)
    (tmp_path / "run").mkdir()
    assert cli.main([*TRAIN, str(tmp_path / "run")]) == 1
    said = last_line(capsys)
    assert "a fault of fedjax_mri (KeyError: " in said and str(tmp_path / "run" / "traceback.txt") in said
    kept = (tmp_path / "run" / "traceback.txt").read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in kept and "in load_experiments" in kept


def test_tracebacks_are_added_and_go_elsewhere_where_a_folder_cannot_be_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "users_folder", lambda: tmp_path)
    for _ in range(2):
        assert failures.keep_traceback(KeyError("one"), tmp_path / "not there") == tmp_path / "traceback.txt"
    assert (tmp_path / "traceback.txt").read_text(encoding="utf-8").count("KeyError: 'one'") == 2
    (tmp_path / "traceback.txt").unlink()
    (tmp_path / "traceback.txt").mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "nowhere"))
    assert failures.one_line(KeyError("one"), tmp_path).endswith("its traceback could not be written")


@pytest.fixture(scope="module", autouse=True)
def drawn_once():
    """The patients of `phantom`, which are the same in all these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "patients", functools.cache(gallery.patients))
        yield


@pytest.mark.parametrize("command", COMMANDS)
def test_an_out_that_cannot_be_is_one_line(command, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    refused = {
        tmp_path / "file" / "x.png": "below a file",
        pathlib.Path("/proc/x.png"): "not there, and cannot be made",
    }
    if command == "phantom":
        refused[tmp_path] = "give a name that ends in .png"
    else:
        refused[tmp_path / "file"] = "a file where a folder is needed"
    for out, words in refused.items():
        assert cli.main([*COMMANDS[command], str(out)]) == 1
        said = last_line(capsys)
        assert words in said and str(out) in said, said
    assert (tmp_path / "file").read_text(encoding="utf-8") == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_is_full_from_the_start_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    monkeypatch.setattr(pathlib.Path, "write_bytes", full.write)
    assert cli.main([*COMMANDS["phantom"], str(tmp_path / "grid.png")]) == 1
    assert "grid.png: the disk is full; free space" in last_line(capsys) and not list(tmp_path.iterdir())


def test_jax_told_to_compute_otherwise_is_refused(tmp_path, capsys) -> None:
    with jax.disable_jit():
        assert cli.main([*TRAIN, str(tmp_path / "run")]) == 1
        assert "JAX_DISABLE_JIT=1" in last_line(capsys)
    jax.config.update("jax_enable_x64", True)
    try:
        with pytest.raises(UserError, match="JAX_ENABLE_X64=1"):
            experiment.run(one(), tmp_path / "run")
    finally:
        jax.config.update("jax_enable_x64", False)
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_one_line(tmp_path) -> None:
    environment = os.environ | {"JAX_PLATFORMS": "nonsense", "TMPDIR": str(tmp_path)}
    done = in_process([*TRAIN, str(tmp_path / "run")], environment)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("error: JAX_PLATFORMS=nonsense: JAX finds no such device here")


def in_process(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fedjax_mri", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HOME, timeout=120)


def one() -> config.Experiment:
    """The experiment of TRAIN."""
    (found,) = cli.load_experiments(HOME / "configs" / "synthetic.py", SMALL).values()
    return found


@pytest.fixture
def no_cache(monkeypatch):
    """No warning was given yet."""
    for function in (cache.writable, cache.temporary):
        function.cache_clear()
    yield monkeypatch
    for function in (cache.writable, cache.temporary):
        function.cache_clear()


def test_the_cache_folder_is_where_the_specification_says(no_cache, tmp_path, capsys) -> None:
    no_cache.setenv("HOME", str(tmp_path))
    for given in ("", "relative/folder"):
        no_cache.setenv("XDG_CACHE_HOME", given)
        assert cache.folder() == tmp_path / ".cache" / "fedjax_mri"
    no_cache.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    no_cache.delenv("HOME")
    no_cache.setattr("pathlib.Path.home", nobody)
    assert cache.folder() == tmp_path / "mine" / "fedjax_mri" and cache.folder().is_dir()
    assert not capsys.readouterr().err


def nobody() -> pathlib.Path:
    raise RuntimeError("Could not determine home directory.")


def test_without_a_cache_folder_a_run_has_a_temporary_one_and_says_so_once(no_cache, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    no_cache.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache.folder().is_dir() and cache.folder() == cache.folder() and cache.users_folder() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in line and "set XDG_CACHE_HOME to a folder of yours" in line
    no_cache.delenv("XDG_CACHE_HOME")
    no_cache.setattr("pathlib.Path.home", nobody)
    assert cache.folder().is_dir()
    assert "this user has no home folder" in capsys.readouterr().err


SPEAKING = """
from fedjax_mri.cli import streams
streams.make_lasting()
import pathlib, sys
for number in range(20_000):
    print("naïve", number, flush=number % 100 == 0)
    print("naïve", number, file=sys.stderr)
pathlib.Path(sys.argv[1]).write_text("came to its end", encoding="utf-8")
"""


def test_a_command_outlives_its_reader(tmp_path) -> None:
    """As in `fedjax-mri train ... 2>&1 | head -1`."""
    words = [sys.executable, "-c", SPEAKING, str(tmp_path / "end")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=HOME)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert (tmp_path / "end").read_text(encoding="utf-8") == "came to its end"


def test_any_name_can_be_printed_in_ascii_and_to_closed_streams(tmp_path) -> None:
    words = [sys.executable, "-c", SPEAKING, str(tmp_path / "end")]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, env=ascii_only, capture_output=True, cwd=HOME, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith(rb"na\xefve 0")
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *words], cwd=HOME, timeout=60)
    assert closed.returncode == 0


def test_an_output_on_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        words = [sys.executable, "-m", "fedjax_mri", "show", str(HOME / "configs" / "synthetic.py")]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=HOME, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: standard output: the disk is full; free space")
    assert len(done.stderr.splitlines()) == 1


def test_paths_that_cannot_be_decoded_come_back_as_they_were(tmp_path) -> None:
    disk.write_text(tmp_path / "page.html", os.fsdecode(b"caf\xe9") + "é")
    assert (tmp_path / "page.html").read_bytes() == b"caf\xe9" + "é".encode()


def test_all_text_files_are_utf_8() -> None:
    """Whatever the locale: each call that opens one says so."""
    others = ("Image.open", "archive.open", "os.open", "disk.write_text", "write_text")
    for path in [*(HOME / "fedjax_mri").rglob("*.py"), *(HOME / "scripts").rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(call.func, "attr", getattr(call.func, "id", "")) if isinstance(call, ast.Call) else ""
            if name not in ("open", "read_text", "write_text") or ast.unparse(call.func) in others:
                continue
            text = ast.unparse(call)
            binary = re.search(r"'[rwa+]*b[rwa+]*'", text)
            assert binary or "encoding=" in text or "RECORD" in text or "utf-8" in text, f"{path}:{call.lineno}: {text}"


BUSY = """
import hashlib, signal, sys
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)  # as a run does, whose handlers wait for the main thread
from fedjax_mri.cli import ending
from fedjax_mri.core import signal_timeout
signal_timeout.GRACE = float(sys.argv[1])
ending.watch(lambda: "round 4 is kept")
print("started", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # C that never comes back to Python, as XLA while it runs a program
"""


@pytest.mark.parametrize("sent, grace", [([signal.SIGTERM, signal.SIGINT], 60), ([signal.SIGINT], 1.2)])
def test_a_process_ends_on_a_signal_whatever_its_main_thread_does(sent, grace) -> None:
    """At once at a second signal, and soon after a first."""
    words = [sys.executable, "-c", BUSY, str(grace)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HOME)
    process.stdout.readline()
    start = time.monotonic()
    for one_signal in sent:
        process.send_signal(one_signal)
        time.sleep(0.2 if len(sent) == 1 else 1.0)  # two that come at once may be taken in either order
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - start < 40 and process.returncode == 128 + sent[0]
    assert said.endswith("; round 4 is kept\n") and said.splitlines()[-1].startswith(f"{sent[0].name}: ended ")


def test_what_an_interrupted_run_keeps_is_what_lies_there(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(experiment, "run", mock.Mock(side_effect=KeyboardInterrupt))
    assert cli.main([*TRAIN, str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == f"SIGINT: {cli.NOTHING_KEPT}\n"
    for name in ("8", "12", "16.orbax-checkpoint-tmp"):
        (tmp_path / "run" / "checkpoints" / name).mkdir(parents=True)
    assert cli.main([*TRAIN, str(tmp_path / "run")]) == 130
    assert "the checkpoint of round 12 is kept" in capsys.readouterr().err


def test_a_failed_run_says_which_checkpoint_it_keeps(tmp_path, monkeypatch, capsys) -> None:
    error = xla_error("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")
    monkeypatch.setattr(experiment, "run", mock.Mock(side_effect=error))
    (tmp_path / "run" / "checkpoints" / "8").mkdir(parents=True)
    assert cli.main([*TRAIN, str(tmp_path / "run")]) == 1
    assert re.search("out of memory.*--plan.lanes 1.*the checkpoint of round 8 is kept", last_line(capsys))


def test_a_signal_before_the_first_segment_stops_at_once_and_later_after_the_segment() -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt) as stopped, stopping.StopSignal(said.append):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.args == (signal.SIGTERM,) and not said
    with stopping.StopSignal(said.append) as stop:
        assert stop.received_by_any() is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.received_by_any() == signal.SIGTERM and said == ["SIGTERM: finishing this segment, then saving"]


def test_a_signal_may_wait_twice_as_long_as_segments_take(monkeypatch) -> None:
    times = iter([100.0, 150.0, 160.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    monkeypatch.setattr(signal_timeout, "_last", 99.0)
    monkeypatch.setattr(signal_timeout, "_longest", 0.0)
    waits = []
    for _ in range(3):
        signal_timeout.note_answer()
        waits.append(signal_timeout.seconds())
    assert waits == [signal_timeout.GRACE, 100.0, 100.0]


def test_a_run_off_the_main_thread_with_its_folder_as_text(tmp_path) -> None:
    found: list[object] = []
    worker = threading.Thread(target=lambda: found.append(experiment.run(one(), str(tmp_path / "run"))))
    worker.start()
    worker.join()
    assert found == [None] and (tmp_path / "run" / "results.npz").exists()


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: experiment.run({"": one()}, "run"), "config is of type dict: give an Experiment; choose one of its"),
        (lambda: experiment.run(one(), None), "out=None is of type NoneType: give the path of a folder"),
        (lambda: experiment.run(one(), "run", 3), "resume_from=3 is of type int: give the path of a folder"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(wrong, words) -> None:
    with pytest.raises(UserError, match=words):
        wrong()
