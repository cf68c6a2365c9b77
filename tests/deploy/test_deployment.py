"""Hospitals as folders and a server, called in this process: what is lost, kept, refused and restarted."""

import functools
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from hospitals import deploy, write_config, write_images, write_sites

from fedjax_mri.cli import commands as cli
from fedjax_mri.core.errors import UserError
from fedjax_mri.deploy import client, federation, node, server, wire
from fedjax_mri.run import config as configs
from fedjax_mri.run import restore, runfolder

TWO = "basel", "lyon"
FLAGS = {
    "private": ["--fed.privacy", "client", "--privacy.epsilon", "0", "--privacy.noise", "1"],
    "scaffold": ["--fed.algorithm", "scaffold"],
    "patient": [
        "--fed.privacy",
        "patient",
        "--privacy.epsilon",
        "0",
        "--privacy.noise",
        "1",
        "--privacy.unit",
        "image",
    ],
}


@pytest.fixture(scope="module", autouse=True)
def one_process_for_all():
    """Several hospitals in this process: their programs and data are kept for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "join", functools.lru_cache(8)(client.join.__wrapped__))
        patch.setattr(federation, "read_source", functools.lru_cache(8)(federation.read_source.__wrapped__))
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return deploy(tmp_path_factory.mktemp("federation"), FLAGS, names=TWO)


def start(out, name, folder, random_key="config"):
    config = runfolder.read_config(out / "server" / "experiments" / name)
    facts = [client.facts(out / site, {name: configs.digest(config)})[name] for site in TWO]
    return server.start(config, name, out / "server" / "runs" / folder, random_key, facts, print)


def exchange_with(out, lose=(), absent=()):
    """Asks all hospitals but those that are `absent` in a round; (client, round) pairs to `lose` train in vain."""

    def exchange(requests, broadcast):
        here = {one: request for one, request in requests.items() if (one, request.round) not in absent}
        sent = {one: client.train(out / TWO[one], request, broadcast) for one, request in here.items()}
        return {one: update for one, update in sent.items() if (one, here[one].round) not in lose}

    return exchange


@pytest.fixture(scope="module")
def interrupted(out):
    """A run in which an update of lyon is lost in round 2, after which the server and both hospitals are restarted."""
    run, state = start(out, "scaffold", "interrupted")
    crash = RuntimeError("the server dies")

    def exchange(requests, broadcast):
        if next(iter(requests.values())).round == 2:
            exchange_with(out)(requests, broadcast)  # they have trained before it dies, and train again
            raise crash
        return exchange_with(out, lose={(1, 1)})(requests, broadcast)

    with pytest.raises(RuntimeError):
        server.train(run, state, exchange, print)
    client.join.cache_clear()
    run, state = start(out, "scaffold", "interrupted")
    assert int(state.round) == 2 and np.asarray(state.clients.rounds).tolist() == [2, 1]
    return run, server.train(run, state, exchange_with(out), print)


def test_a_lost_update_and_restarts_change_nothing_but_that_the_hospital_was_absent(out, interrupted) -> None:
    run, state = start(out, "scaffold", "absent")
    expected = server.train(run, state, exchange_with(out, absent={(1, 1)}), print)
    for found, value in zip(jax.tree.leaves(interrupted[1].server), jax.tree.leaves(expected.server)):
        np.testing.assert_array_equal(found, value)
    line = json.loads((run.folder / "rounds.jsonl").read_text().splitlines()[1])
    assert (line["updates"], line["absent"]) == (1, ["lyon"])
    kept = sorted(path.stem for path in (out / "lyon" / "state").glob(f"*{run.token}/*.state"))
    assert kept == ["1", "2"]


def test_control_variates_on_disks_add_up_to_that_of_the_server(out, interrupted) -> None:
    """SCAFFOLD's c is the mean of the c_i by examples, of the rounds that counted alone."""
    run, state = interrupted
    like = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], state.clients))
    mean = jax.tree.map(np.zeros_like, state.server.extra)
    for name, counted in zip(TWO, (3, 2)):
        round, _, row = client.load_state(out / name / "state" / f"scaffold-{run.token}" / f"{counted}.state", like)
        assert (round, int(row.rounds)) == (2, counted)
        mean = jax.tree.map(lambda total, own: total + 7 / 14 * own, mean, row.state)
    for found, value in zip(jax.tree.leaves(state.server.extra), jax.tree.leaves(mean)):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-6)
        assert np.abs(value).max() > 1e-3


def test_the_server_s_folder_is_that_of_a_run(out, interrupted) -> None:
    restored = restore.restore(interrupted[0].folder)
    assert restored.described.classes == ("class0", "class1") and restored.described.labels == (5, 9)
    assert int(restored.state.round) == 3


def test_a_hospital_refuses_what_would_not_go_on_from_its_last_round(out, interrupted) -> None:
    run, state = interrupted
    cohort = server.draw_cohort(run.sim, run.root, state.round - 1)
    last = server.requests_of(run, state, jax.device_get(cohort))[0]._replace(round=2)
    broadcast, others = server.broadcast(run.sim, state), run.roster._replace(names=["lyon", "basel"])
    refused = {
        "another model": (last._replace(counted=2), broadcast),
        "the server is behind": (last._replace(round=1), broadcast),
        "is none in which": (last._replace(round=3), broadcast),
        "is no name of a run": (last._replace(token="../x"), broadcast),
        "at the server": (last._replace(digest="0" * 12), broadcast),
        "is not in": (last._replace(experiment="other"), broadcast),
        "the server has": (last._replace(roster=json.dumps(others)), broadcast),
        "found nothing": (last, wire.pack(())),
        "cannot be read": (last, broadcast[:-9]),
    }
    for words, (request, sent) in refused.items():
        with pytest.raises(UserError, match=words):
            client.train(out / "basel", request, sent)
    here = client.join(out / "basel", last.experiment, last.digest, last.token, json.dumps(run.roster))
    here, request = here._replace(takes_part=lambda round: True), last._replace(round=3, counted=9)
    with pytest.raises(UserError, match="the state after 9 rounds of this hospital is missing"):
        client.row_before(here, request, b"", "refuse")
    assert int(client.row_before(here, request, b"", "fresh").rounds) == 9
    damaged = here.folder / "9.state"
    damaged.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"{damaged}.*put back a copy"):
        client.row_before(here, request, b"", "refuse")
    damaged.unlink()


def test_noise_of_the_server_is_drawn_by_a_key_that_nobody_else_may_read(out) -> None:
    run, _ = start(out, "private", "noisy", "secret")
    key = run.folder / "key"
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 8
    again, _ = start(out, "private", "noisy", "secret")
    other, _ = start(out, "private", "noisier", "secret")
    plain, _ = start(out, "private", "simulated", "config")
    drawn = [jax.random.key_data(one.root).tolist() for one in (run, again, other, plain)]
    assert drawn[0] == drawn[1] == np.frombuffer(key.read_bytes(), np.uint32).tolist()
    assert len(set(map(tuple, drawn))) == 3 and drawn[3] == jax.random.key_data(jax.random.key(0)).tolist()
    assert not (start(out, "scaffold", "open", "secret")[0].folder / "key").exists()  # its server draws no noise


def test_a_hospital_spends_its_budget_of_privacy_in_one_run_alone(out) -> None:
    run, state = start(out, "patient", "first")
    cohort = jax.device_get(server.draw_cohort(run.sim, run.root, state.round))
    request, broadcast = server.requests_of(run, state, cohort)[0], server.broadcast(run.sim, state)
    (out / "basel" / "state" / "patient-0123").mkdir(parents=True)
    with pytest.raises(UserError, match="budgets add up"):
        client.train(out / "basel", request, broadcast)


def test_hospitals_whose_data_do_not_fit_are_refused() -> None:
    one = {"name": "a", "client": 0, "examples": 3, "patients": None, "synthetic": False, "image": [8, 8, 1]}
    one |= {"classes": ["x", "y"], "clients": 1, "labels": [1, 2], "spacing": [1.0]}
    one |= {"modalities": [], "window": None, "pictures": True}
    other = {**one, "name": "b", "client": 1, "patients": 2, "classes": ["y", "z"], "spacing": [2.0]}
    roster = federation.roster_of([other, one])
    assert roster.names == ["a", "b"] and roster.patients is None
    assert roster.described["classes"] == ["x", "y", "z"] and roster.described["labels"] == [1, 3, 2]
    assert roster.described["spacing"] == [] and roster.described["clients"] == 2
    for change, words in (({"image": [4, 4, 1]}, "image: a has"), ({"examples": 0}, "b: has no example")):
        with pytest.raises(UserError, match=words):
            federation.roster_of([one, {**other, **change}])


def refusal(capsys, *words) -> list[str]:
    """Returns the lines of a `deploy` that fails."""
    assert cli.main(["deploy", *map(str, words)]) == 1
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--fed.sampling diurnal", "--fed.sampling everyone"),
        ("--fed.conditions stragglers", "round-seconds"),
        ("--fed.attack signflip", "--fed.attack off"),
        ("--fed.secure masked", "docs/deploy.md"),
        ("--fed.algorithm oneshot", "fedavg"),
        ("--finetune.epochs 1", "--finetune.epochs 0"),
        ("--early.patience 3 --early.figure accuracy", "--early.patience 0"),
        ("--fed.privacy client --privacy.audit 10", "--privacy.audit 0"),
    ],
)
def test_what_plays_hospitals_is_refused_with_the_remedy(flags, words, tmp_path, capsys) -> None:
    sites = write_sites(tmp_path)
    config = write_config(tmp_path, {"": []})
    lines = refusal(capsys, config, "--site", *sites, "--out", tmp_path / "out", *flags.split())
    assert len(lines) == 1 and words in lines[0] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("client = 4", "client=4, clients=4: number"),
        ("nmae = 'x'", "nmae: no such field; did you mean name?"),
        ("clients = 'four'", "clients='four': must be"),
        ("name = '../x'", "name='../x'"),
        ("superlink = 'example.org'", "give HOST:PORT"),
        ("superlink = 'example.org:9092'", "certificate: without one"),
        ("private_key = 'key.pem'", "private_key"),
        ("random_key = 'mine'", "random_key='mine': must be one of secret, config"),
        ("= 3", "is no TOML"),
    ],
)
def test_a_mistake_in_a_hospital_toml_is_one_line(change, words, tmp_path, capsys) -> None:
    file, *_ = write_sites(tmp_path)
    key = change.split(" ")[0]
    kept = [line for line in file.read_text().splitlines() if not line.startswith(f"{key} =")]
    file.write_text("\n".join([change, *kept]))
    (line,) = refusal(capsys, write_config(tmp_path, {"": []}), "--site", file, "--out", tmp_path / "out")
    assert line.startswith(f"error: {file}: ") and words in line


def test_mistakes_of_several_hospitals(tmp_path, capsys) -> None:
    first, second, *_ = write_sites(tmp_path)
    config = write_config(tmp_path, {"": []})
    first.write_text(first.read_text().replace("client = 0", "client = 9").replace("'basel'", "'a b'", 1))
    assert len(refusal(capsys, config, "--site", first)) == 2
    (line,) = refusal(capsys, config, "--site", second, second)
    assert "is another hospital's" in line
    (line,) = refusal(capsys, config, "--site", second)
    assert f"{second}: clients=4, but no file is of client 0, 2, 3" in line
    first, second, *rest = write_sites(tmp_path)
    second.write_text(second.read_text().replace("root =", "roots ="))
    (line,) = refusal(capsys, config, "--site", first, second, *rest)
    assert "data.roots: no such field; did you mean data.root?" in line


FUSE = {"tasks.classify import Classify": "tasks.fusion import Fuse", "Classify(network=LinearSettings())": "Fuse()"}


@pytest.mark.parametrize(
    ("own", "new_name", "task", "words"),
    [
        ("size = 16", "{}", {}, "image: basel has [8, 8, 1], lyon has [16, 16, 1]; prepare"),
        ("size = 'big'", "{}", {}, "hospital.toml of lyon, for Folder: data.size='big': must be a whole number"),
        ("", "other {}", {}, "basel: has classes class0, class1, none of which another hospital has (other class0"),
        ("", "{}", FUSE, "hospital.toml of basel: data: Folder: train: the task reads 'ct', the examples hold image"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_anything_is_written(
    own, new_name, task, words, tmp_path, capsys
) -> None:
    write_images(tmp_path)
    for folder in list((tmp_path / "lyon").glob("*/*/class?")):
        folder.rename(folder.with_name(new_name.format(folder.name)))
    sites, config = write_sites(tmp_path, TWO), write_config(tmp_path, {"": []})
    sites[1].write_text(f"{sites[1].read_text()}\n{own}\n")
    for old, new in task.items():
        config.write_text(config.read_text().replace(old, new))
    (line,) = refusal(capsys, config, "--site", *sites, "--out", tmp_path / "out")
    assert line.startswith(f"error: {words}") and not (tmp_path / "out").exists()


def test_what_the_server_would_refuse_is_refused_before_anything_is_written(tmp_path, capsys) -> None:
    write_images(tmp_path)
    sites, config = write_sites(tmp_path, TWO), write_config(tmp_path, {"": []})
    cohort = ("--fed.sampling", "uniform", "--sampling.cohort", "9")
    (line,) = refusal(capsys, config, "--site", *sites, "--out", tmp_path / "out", *cohort)
    assert "cohort=9" in line and not (tmp_path / "out").exists()


def test_a_hospital_is_checked_before_its_supernode_starts(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(node, "flower_supernode", lambda: pytest.fail("it starts"))
    out = deploy(tmp_path, {"": []}, names=TWO)
    shutil.rmtree(tmp_path / "lyon")
    (tmp_path / "lyon").mkdir()
    federation.read_source.cache_clear()
    assert node.main([str(out / "lyon")]) == 1
    assert capsys.readouterr().err.startswith(f"error: hospital.toml of lyon: {tmp_path / 'lyon'}")
    (tmp_path / "lyon").rmdir()
    assert node.main([str(out / "lyon")]) == 1
    assert f"error: hospital.toml of lyon: {tmp_path / 'lyon'} is not on this machine\n" == capsys.readouterr().err
    assert node.main([]) == 1 and "give one folder" in capsys.readouterr().err


def test_a_supernode_that_is_not_let_in_tries_again(tmp_path, monkeypatch, capsys) -> None:
    """As after its death, which a SuperLink notices a minute later where it has logged in with a key."""
    out, attempts = deploy(tmp_path, {"": []}, names=TWO), []

    def supernode() -> None:
        attempts.append(sys.argv)
        if len(attempts) == 1:
            raise RuntimeError("generator didn't yield")

    monkeypatch.setattr(node, "flower_supernode", supernode)
    monkeypatch.setattr(node, "serve", lambda port: None)
    monkeypatch.setattr(node, "RETRY_S", 0.01)
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert node.main([str(out / "lyon")]) == 0 and len(attempts) == 2
    assert "does not let this SuperNode in" in capsys.readouterr().out
    ports = [words[words.index("--clientappio-api-address") + 1] for words in attempts]
    assert len(set(ports)) == 2
