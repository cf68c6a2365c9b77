"""Several real processes: the result of one; stopped together, lost together, continued by any number; or refused."""

import os
import pathlib
import re
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from test_cli import CONFIG, command, fill, final, wait_for_progress

from fedjax_mri.cli import commands as cli
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import checkpoint, launch, processes, runfolder

HOME = pathlib.Path(__file__).parents[2]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
SPREAD = ("--plan.lanes", "1", "--heartbeat", "10")  # one lane a device, so that no device is idle


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> pathlib.Path:
    """A folder of images, a config for it, and a run of 2 rounds in this process."""
    home = tmp_path_factory.mktemp("processes")
    fill(home / "images", {"Training": 14, "Testing": 6})
    plain = CONFIG.replace("learning_rate", 'optimizer="optax.sgd", learning_rate')  # Adam magnifies rounding
    (home / "tiny.py").write_text(plain.format(root=str(home / "images")))
    alone(home, "alone", 2)
    return home


def alone(home: pathlib.Path, out: str, rounds: int) -> None:
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(home / out), "--rounds", str(rounds)]) == 0


def start(home: pathlib.Path, out: str, *flags: str) -> subprocess.Popen:
    """The command with one device a process, and the compilation cache of the tests."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    device = {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")}
    return subprocess.Popen(command(home, out, *SPREAD, *flags), env=os.environ | cache | device, **PIPES)


def done(process: subprocess.Popen) -> tuple[str, list[str]]:
    """What a command has said, in all and as errors; a run that hangs fails here."""
    try:
        words, errors = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return words, errors.splitlines()


def workers(process: subprocess.Popen) -> list[int]:
    """Process ids of the processes of a run, in their order."""
    return [int(line) for line in subprocess.check_output(["pgrep", "-P", str(process.pid)]).split()]


def close(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=3e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.thorough  # test_lost_peer.py kills one too, and the next test goes on with another number
def test_one_is_killed_the_other_ends_and_three_go_on_to_the_result_of_one_and_say_it_once(home) -> None:
    run = start(home, "killed", "--processes", "2", "--rounds", "100000")
    for _ in range(2):  # a segment's line is there before its checkpoint
        wait_for_progress(home / "killed", run)
    os.kill(workers(run)[1], signal.SIGKILL)
    _, errors = done(run)
    assert run.returncode == 128 + signal.SIGKILL
    assert errors[-1] == f"error: process 1 was ended by SIGKILL; {launch.AGAIN}", errors
    assert all("lost contact" in line for line in errors[:-1]) and len(errors) <= 2, errors
    rounds = checkpoint.Checkpoints(home / "killed").latest() + 2
    more = start(home, "killed", "--processes", "3", "--rounds", str(rounds))
    words, errors = done(more)
    assert more.returncode == 0 and "going on after round" in words and not errors, errors
    assert words.count(f"round {rounds}/{rounds}:") == 1 and "peer ranks" not in words
    assert len(list((home / "killed").glob("events*"))) == 2  # one of each run
    assert runfolder.read_json(home / "killed" / "run.json")["environment"]["processes"] == "3"
    assert (home / "killed" / "report.html").exists()
    alone(home, "as one", rounds)
    close(final(home / "killed"), final(home / "as one"))
    assert [line["round"] for line in runfolder.read_history(home / "killed")] == list(range(0, rounds + 1, 2))


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_one_goes_on(home) -> None:
    """Begun by one process on 8 devices, stopped as two on 2, ended by one on 8."""
    shutil.copytree(home / "alone", home / "stopped")
    run = start(home, "stopped", "--processes", "2", "--rounds", "100000")
    before = len(runfolder.read_history(home / "stopped"))
    wait_for_progress(home / "stopped", run)
    os.kill(workers(run)[1], signal.SIGTERM)
    words, errors = done(run)
    assert run.returncode == 128 + signal.SIGTERM and not errors
    last = runfolder.read_history(home / "stopped")[-1]["round"]
    assert f"SIGTERM: stopped after round {last}" in words
    assert checkpoint.Checkpoints(home / "stopped").latest() == last >= 2 * before
    alone(home, "stopped", last + 2)
    alone(home, "undisturbed", last + 2)
    close(final(home / "stopped"), final(home / "undisturbed"))
    assert [line["round"] for line in runfolder.read_history(home / "stopped")] == list(range(0, last + 3, 2))


def test_a_different_config_is_a_line_in_each(home) -> None:
    place = launch.local(2)
    runs = [
        start(home, "mixed", "--distributed", place[0]),
        start(home, "mixed", "--distributed", place[1], "--seed", "5"),
    ]
    for run in runs:
        _, errors = done(run)
        assert run.returncode == 1
        assert errors == ["error: process 1 differs: seed is 5, in process 0 0; start all processes alike"]
    assert not (home / "mixed").exists()


def test_what_differs_is_named_once_and_where(monkeypatch) -> None:
    processes.check_all_equal({"jax": "1", "data": 3}, "mend it")
    monkeypatch.setattr(processes, "all_gather", lambda facts: [facts, facts, {**facts, "jax": "2"}])
    with pytest.raises(UserError, match=r"^process 2 differs: jax is 2, in process 0 1; mend it$"):
        processes.check_all_equal({"jax": "1", "data": 3}, "mend it")


def test_the_error_of_one_is_everybody_s(monkeypatch) -> None:
    def fail() -> None:
        raise UserError("no such folder")

    assert processes.run_on_all(lambda: 3) == 3
    monkeypatch.setattr(processes, "all_gather", lambda mine: [None, mine or "no such folder"])
    with pytest.raises(UserError, match=r"^process 1: no such folder$"):
        processes.run_on_all(lambda: 3)
    with pytest.raises(UserError, match=r"^no such folder$"):
        processes.run_on_all(fail)


@pytest.mark.parametrize(("cores", "count"), [(8, 2), (7, 3), (2, 4), (1, 3)])
def test_cores_are_shared_out(cores, count) -> None:
    shares = [launch.share(range(cores), number, count) for number in range(count)]
    assert {core for share in shares for core in share} == set(range(cores)) and all(shares)
    assert sum(map(len, shares)) == max(cores, count)


def child(name: str, code: int, errors: tuple[str, ...] = (), fatal: tuple[str, ...] = ()) -> launch.Child:
    ended = subprocess.CompletedProcess([], code)
    return launch.Child(name, name == "process 0", ended, list(errors), list(fatal))


LAST_WORDS = {
    "said by process 0": ([child("process 0", 1, ("error: x",)), child("process 1", 1, ("error: process 0: x",))], []),
    "another error": ([child("process 1", 1, ("error: y",)), child("process 0", 0)], ["process 1: error: y"]),
    "killed": ([child("process 1", -9)], [f"error: process 1 was ended by SIGKILL; {launch.AGAIN}"]),
    "aborted": (
        [child("process 1", -6, (), ("F1121 gone",))],
        [f"error: process 1 lost contact with the others; {launch.AGAIN}"],
    ),
    "alone": (
        [child("process 1", -6, (), ("F1121 gone", "RPC: /xla.coordination.CoordinationService/RegisterTask"))],
        ["error: process 1 could not reach process 0; are all started, with the same PLACE but for INDEX?"],
    ),
    "stopped": ([child("process 0", 143), child("process 1", 143)], []),
    "told to stop before it could listen": ([child("process 0", -15)], []),
}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (child("process 1", 0), 0),
        (child("process 1", -9), 137),
        (child("process 1", -6, (), ("F1121 gone",)), 134),
        (child("process 1", -6, ("error: seed is 5",), ("F1121 gone",)), 1),
    ],
)
def test_an_abort_after_an_error_is_the_code_of_the_error(one, expected) -> None:
    assert launch.code(one) == expected


@pytest.mark.parametrize("case", LAST_WORDS)
def test_last_words(case) -> None:
    ended, said = LAST_WORDS[case]
    assert list(launch.last_words(ended, [signal.SIGTERM])) == said


@pytest.mark.parametrize("place", ["3", "2/2@localhost:1"])
def test_a_place_that_makes_no_sense_is_refused(place) -> None:
    with pytest.raises(UserError, match="give INDEX/COUNT@HOST:PORT"):
        processes.placed(place)


def test_no_processes_at_all_are_refused(home, capsys) -> None:
    assert cli.main(["train", str(home / "tiny.py"), "--out", str(home / "mistaken"), "--processes", "0"]) == 1
    assert capsys.readouterr().err == "error: --processes 0: must be 1 or more\n"


def test_where_there_is_no_cluster_one_line_says_so(home) -> None:
    run = start(home, "mistaken", "--distributed")
    _, errors = done(run)
    assert run.returncode == 1 and len(errors) == 1 and "no cluster found here" in errors[0]


PLACES = [HOME / "docs" / "scaling.md", *(HOME / "scripts").rglob("train.*")]


@pytest.mark.parametrize("path", PLACES, ids=lambda path: path.name)
def test_commands_of_scripts_and_page_are_understood(path) -> None:
    text = re.sub(r"\n\s+--", " --", path.read_text())
    commands = re.findall(r"^(?:.*(?:/|exec ))?fedjax-mri (train .*)$", text, re.MULTILINE)
    assert commands
    for line in commands:
        line = line.replace('"$@"', "config.py").replace("$JOB_COMPLETION_INDEX", "3")
        words, flags = cli.parser().parse_known_args(line.split())
        assert launch.wanted(words) and not flags
        if words.distributed not in (None, launch.CLUSTER):
            assert processes.placed(words.distributed).processes > 1


def test_alone_all_is_trivial() -> None:
    assert processes.is_main_process() and not processes.is_multiprocess()
    assert processes.all_gather(3) == [3] and processes.all_max(7) == 7 and processes.give_up(1) == 1
