"""The worked examples of docs/architecture.md: a stage, a rule, a sampler and an attack, each one file."""

import importlib
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import SIZES, images, linear, simulation

from fedjax_mri import nets
from fedjax_mri.cli import commands as cli
from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import files as data_files
from fedjax_mri.data.files.read import read, readers
from fedjax_mri.data.files.scan import Limits
from fedjax_mri.fed.algorithm import sent_shapes, traffic
from fedjax_mri.fed.attack.contract import attackers
from fedjax_mri.fed.attack.update import with_attack
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import check_simulation, init_state, initial_state
from fedjax_mri.fed.sampling import Population
from fedjax_mri.fed.uplink.contract import RoundContext, Sender, Update, UplinkState
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.run import config, parts
from fedjax_mri.tasks.task import Model

HOME = pathlib.Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (HOME / "docs" / "architecture.md").read_text(), re.S)
EXAMPLES = {  # name of the flag's value -> the part, the code
    "natural": ("uplink.stages", BLOCKS[2]),
    "phocas": ("uplink.reduce", BLOCKS[3]),
    "ballsinbins": ("sampling", BLOCKS[4]),
    "freerider": ("attack", BLOCKS[5]),
}
ROOT = jax.random.key(4)
EXPERIMENT = config.load(HOME / "configs" / "quickstart.py")[""]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch) -> None:
    """Each example as a file of the folder that its part is looked for in."""
    for name, (part, code) in EXAMPLES.items():
        folder = tmp_path / part
        folder.mkdir()
        (folder / f"{name}.py").write_text(code)
        home = importlib.import_module(parts.PARTS[part])
        monkeypatch.setattr(home, "__path__", [*home.__path__, str(folder)])
    yield
    for name, (part, _) in EXAMPLES.items():
        sys.modules.pop(f"{parts.PARTS[part]}.{name}", None)


def settings(*flags: str):
    """The quick-start's config with flags."""
    return config.override(EXPERIMENT, flags)


def test_the_flags_find_them_with_their_fields() -> None:
    flags = "--fed.uplink.stages clip natural --uplink.stages.0.bound 2 --uplink.stages.1.feedback ef"
    found = settings(*flags.split(), *["--fed.uplink.reduce", "phocas", "--uplink.reduce.faulty", "2"])
    assert [type(stage).__name__ for stage in found.uplink.stages] == ["Clip", "Natural"]
    assert (found.uplink.stages[0].bound, found.uplink.stages[1].feedback, found.uplink.reduce.faulty) == (2.0, "ef", 2)
    uplink = found.uplink.build()
    assert uplink.stages.name == "clip > natural" and uplink.reduce.name == "phocas"
    again = config.from_dict(json.loads(json.dumps(config.to_dict(found))))
    assert again == found
    binned = settings("--fed.sampling", "ballsinbins", "--sampling.bins", "10").sampling
    assert (type(binned).__name__, binned.bins) == ("BallsInBins", 10)


def test_the_attack_sends_what_the_honest_clients_sent_on_average_in_the_round_before() -> None:
    attack = settings(*["--fed.attack", "freerider", "--attack.clients", "1,3", "--attack.factor", "2"]).attack
    assert (attack.clients, attack.factor) == ((1, 3), 2.0) and len(EXAMPLES["freerider"][1].splitlines()) < 40
    uplink = with_attack(UplinkSettings().build(), attack.build(2), attackers(attack, 4))
    deltas = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    state, at = None, RoundContext(jnp.int32(0), ROOT, jnp.float32(4), jnp.float32(4), jnp.arange(4))
    for number, rows in enumerate(deltas):
        updates = Update(Model({"w": jnp.asarray(rows)}, {}), (), jnp.ones(4))
        one = jax.tree.map(lambda leaf: leaf[0], updates)
        state = state or uplink.reduce.init(one)
        added = uplink.reduce.add(uplink.reduce.zero(one, 4), updates, jnp.arange(4))
        aggregate, state = uplink.reduce.finish(added, state, at)
        before = deltas[number - 1][[0, 2]].mean(0) if number else np.zeros(8)
        np.testing.assert_allclose(aggregate.delta.params["w"], (rows[[0, 2]].sum(0) + 4 * before) / 4, rtol=1e-5)


def test_the_stage_rounds_to_powers_of_two_without_bias() -> None:
    """With the variance that the paper bounds by an eighth, in 9 bits a value."""
    stage = settings("--fed.uplink.stages", "natural").uplink.stages[0].build()
    vector = np.array([0, 1, -3, 0.7, 1e-20, -5e8, 0.33, 2.5], np.float32)
    sent = Update(Model(jnp.asarray(vector), ()), (), jnp.float32(1))
    sender = Sender(jnp.int32(0), jnp.int32(0), ROOT, jnp.float32(1), jnp.float32(1), UplinkState((), ()))
    client = jax.vmap(lambda key: stage.client(sent, stage.init_client(sent), sender._replace(key=key))[0].delta.params)
    found = np.asarray(jax.jit(client)(jax.random.split(ROOT, 4000)), np.float64)
    assert set(np.frexp(np.abs(found))[0].ravel()) == {0.0, 0.5}
    np.testing.assert_allclose(found.mean(0), vector, rtol=0.02)
    np.testing.assert_allclose(found.var(0)[2], (4 - 3) * (3 - 2), rtol=0.05)
    assert np.all(found.var(0) <= 1.05 / 8 * vector.astype(np.float64) ** 2)
    assert stage.wire(sent, 32) == 8 * 9 / 8


def test_the_rule_is_what_numpy_says() -> None:
    rule = settings("--fed.uplink.reduce", "phocas").uplink.reduce.build()
    rows = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    rows[4] += 30
    several = Update(jnp.asarray(rows), (), jnp.ones(6))
    zero = rule.zero(Update(jnp.zeros(5), (), jnp.float32(0)), 8)
    total = jax.jit(rule.add)(zero, several, np.arange(6, dtype=np.int32))
    at = RoundContext(jnp.int32(0), ROOT, jnp.float32(6), jnp.float32(6))
    centre = np.sort(rows, 0)[1:-1].mean(0)
    near = np.take_along_axis(rows, np.abs(rows - centre).argsort(0)[:5], 0)
    np.testing.assert_allclose(jax.jit(rule.finish)(total, (), at)[0].delta, near.mean(0), rtol=1e-5)


def test_the_sampler_draws_each_client_once_in_as_many_rounds_as_there_are_bins() -> None:
    sampler = settings("--fed.sampling", "ballsinbins", "--sampling.bins", "4").sampling.build(
        Population(np.ones(50, np.int32))
    )
    draw = jax.jit(sampler.draw)
    for epoch in range(2):
        cohorts = [draw(ROOT, jnp.int32(4 * epoch + round)) for round in range(4)]
        drawn = np.concatenate([np.asarray(cohort.client)[np.asarray(cohort.present)] for cohort in cohorts])
        assert sorted(drawn) == list(range(50))
    assert (sampler.law, sampler.rate) == ("balls in bins", 0.25)


def test_they_train_together_on_two_devices() -> None:
    """The loss falls, the state of absent clients stays, and the traffic is that of the compressed update."""
    flags = "--fed.uplink.stages clip natural --uplink.stages.1.feedback ef --fed.uplink.reduce phocas"
    flags += " --fed.sampling ballsinbins --sampling.bins 2"
    found, plan = settings(*flags.split()), Plan(devices=2, lanes=2).resolve()
    sim = simulation(linear(), images())
    sampler = found.sampling.build(Population(SIZES))
    sim = sim._replace(uplink=found.uplink.build(), sampler=sampler)
    check_simulation(sim, plan)
    state, stats, _ = segments.build(sim, plan, ROOT, 6)(initial_state(sim, plan, ROOT), 6)
    assert np.isfinite(np.asarray(stats.metrics.nll)).all() and np.asarray(stats.clients).sum() == 3 * np.sum(SIZES > 0)
    residual = state.clients.uplink["natural"].kept
    kept = [float(trees.norm(trees.take(residual, client))) for client in range(len(SIZES))]
    assert [norm > 0 for norm in kept] == [bool(size) for size in SIZES]
    model = init_state(sim, ROOT).server.model
    assert traffic(sim.algorithm, sim.uplink, model).up < trees.nbytes(sent_shapes(sim.algorithm, model).delta) / 3


def test_two_parts_of_one_name_are_refused(tmp_path, monkeypatch) -> None:
    home = importlib.import_module(parts.PARTS["uplink.stages"])
    (tmp_path / "another.py").write_text(EXAMPLES["natural"][1].replace("Natural", "Clip"))
    monkeypatch.setattr(home, "__path__", [*home.__path__, str(tmp_path)])
    with pytest.raises(UserError, match="both have a clip: rename one"):
        parts.settings("uplink.stages")
    sys.modules.pop(f"{home.__name__}.another")


TABLES = {  # part -> page, title of the section with its table
    "uplink.stages": ("uplink.md", "Stages"),
    "uplink.before": ("uplink.md", "Before a rule"),
    "uplink.reduce": ("uplink.md", "Reductions"),
    "task.network": ("classification.md", "Networks by name"),
}


@pytest.mark.parametrize("part", TABLES)
def test_the_tables_name_exactly_what_there_is(part: str) -> None:
    """With all fields; the examples of this file are not in the tables."""
    page, title = TABLES[part]
    section = (HOME / "docs" / page).read_text().split(f"## {title}")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", section, re.M)
    known = {name: kind for name, kind in parts.settings(part).items() if name not in EXAMPLES}
    assert [name for name, _ in rows] == sorted(known)
    for name, fields in rows:
        assert re.findall(r"`(\w+)`", fields) == list(known[name].__dataclass_fields__)


def test_the_table_of_files_names_exactly_the_kinds_that_can_be_read() -> None:
    section = (HOME / "docs" / "convert.md").read_text().split("## In and out")[1].split("\n## ")[0]
    kinds = {kind for reader in readers() for kind in reader.kinds}
    assert set(re.findall(r"^\| (\w+)[-, ]", section, re.M)) - {"in"} == kinds


NETWORK = """
from dataclasses import dataclass
from fedjax_mri.nets.linear import LinearSettings

@dataclass(frozen=True)
class DoubleSettings(LinearSettings):
    times: float = 2.0
"""
READER = """
import numpy as np
from fedjax_mri.data.files.scan import Reader, Scan

def read(path, modality, limits):
    lines = path.read_text().splitlines()[1:]
    return Scan(np.array([[line.split() for line in lines]], np.float32), "display", None)

READER = Reader(("GREY",), (".grey",), lambda head: head.startswith(b"GREY"), read)
"""


def test_a_network_and_a_reader_are_one_file_each(tmp_path, monkeypatch) -> None:
    for name, code, home in (("double", NETWORK, nets), ("grey", READER, data_files)):
        folder = tmp_path / f"{name}s"
        folder.mkdir()
        (folder / f"{name}.py").write_text(code)
        monkeypatch.setattr(home, "__path__", [*home.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{home.__name__}.{name}", raising=False)
    readers.cache_clear()
    found = settings("--fed.task.network", "double", "--task.network.times", "3").task.network
    assert (type(found).__name__, found.times) == ("DoubleSettings", 3.0)
    file = tmp_path / "slice.grey"
    file.write_text("GREY\n0 1 0\n1 0 1")
    np.testing.assert_array_equal(read(file, "mr", Limits()).voxels, [[[0, 1, 0], [1, 0, 1]]])
    readers.cache_clear()


@pytest.mark.parametrize("path", ["fusion_phantom.py", "cyclegan_demo.py"])
def test_a_network_is_not_put_where_another_kind_is_wanted(path: str) -> None:
    (experiment,) = config.load(HOME / "configs" / path).values()
    with pytest.raises(UserError, match="whose kind is not chosen by name; set it in the config"):
        config.override(experiment, ["--fed.task.network", "resnet"])


def test_the_commands_of_the_pages_are_understood() -> None:
    pages = [(HOME / "docs" / page).read_text() for page in ("uplink.md", "classification.md")]
    commands = re.findall(r"^fedjax-mri train (\S+) (--fed.*)$", "\n".join(pages), re.M)
    assert len(commands) == 5
    for path, flags in commands:
        (found,) = cli.load_experiments(HOME / path, flags.split(), None).values()
        found.uplink.build()
