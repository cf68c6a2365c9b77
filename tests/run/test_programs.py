"""Traced programs on a cache: what a run finds there is not traced again, and does the same."""

import importlib
import pathlib
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import CASES
from tiny import Grey

from fedjax_mri.core import programs
from fedjax_mri.core.programs import ProgramCache, Shardings
from fedjax_mri.data.contract import Test
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, initial_state
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment, fingerprint, runfolder
from fedjax_mri.run.config import Experiment

ROOT = jax.random.key(11)
SIM = CASES["resident"]()


def untraceable(sim: Simulation) -> Simulation:
    """`sim` whose task may not be traced."""

    def refuse(*_):
        raise AssertionError("traced")

    phases = tuple(phase._replace(loss=refuse) for phase in sim.task.phases)
    return sim._replace(task=sim.task._replace(phases=phases, evaluate=refuse))


def trained(sim: Simulation, plan: Plan, cache: ProgramCache | None) -> State:
    return segments.build(sim, plan, ROOT, 2, cache)(initial_state(SIM, plan, ROOT), 2)[0]


def equal(some, others) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True))


@pytest.mark.parametrize(
    "where",
    [{}, {"data": "streamed", "clients": "host"}, pytest.param({"loop": "round"}, marks=pytest.mark.thorough)],
    ids=str,
)
def test_what_is_on_the_shelf_is_not_traced_again_and_does_the_same(where, tmp_path) -> None:
    plan, cache = Plan(devices=2, lanes=1, **where).resolve(), ProgramCache(tmp_path, "this run", print)
    first = trained(SIM, plan, cache)
    assert equal(first, trained(untraceable(SIM), plan, cache))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(trained(SIM, plan, None)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError, match="traced"):
        trained(untraceable(SIM), plan, cache._replace(name="another run"))


def test_a_judgement_is_kept_as_well(tmp_path) -> None:
    plan, cache = Plan(devices=2, lanes=1).resolve(), ProgramCache(tmp_path, "this run", print)
    tests = {"all": Test(SIM.data, np.full(len(SIM.data.sizes), -1, np.int32))}
    state = initial_state(SIM, plan, ROOT)
    judged = [
        evaluate.build(sim.task, plan, tests, where)(state)["all"].metrics
        for sim, where in ((SIM, None), (SIM, cache), (untraceable(SIM), cache))
    ]
    assert equal(judged[1], judged[2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), judged[0], judged[1])


def test_a_damaged_program_is_traced_again_with_one_line(tmp_path) -> None:
    lines, plan = list[str](), Plan(devices=1, lanes=1).resolve()
    cache = ProgramCache(tmp_path, "this run", lines.append)
    first = trained(SIM, plan, cache)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    assert equal(first, trained(SIM, plan, cache))
    assert lines == [f"{path}: damaged; the program is traced again"]
    assert equal(first, trained(untraceable(SIM), plan, cache))


def test_what_cannot_be_kept_is_compiled_all_the_same(tmp_path) -> None:
    """A call of Python cannot be exported; and a folder that is a file holds nothing."""
    plan = Plan(devices=1).resolve()
    form, x = Shardings(plan.replicated_sharding(), plan.replicated_sharding()), np.float32(3)

    def asks(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda x: np.float32(2) * x, jax.ShapeDtypeStruct((), jnp.float32), x)

    assert programs.compile_program(asks, form, (x,), ProgramCache(tmp_path, "", print))(x) == 6
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert programs.compile_program(jnp.square, form, (x,), ProgramCache(tmp_path / "file", "", print))(x) == 9


def test_a_lazy_program_is_compiled_for_each_shape() -> None:
    plan, traced = Plan(devices=1).resolve(), list[int]()

    def total(x: jax.Array) -> jax.Array:
        traced.append(len(x))
        return x.sum()

    call = programs.compile_when_called(total, Shardings(plan.replicated_sharding(), plan.replicated_sharding()))
    found = [float(call(np.ones(length, np.float32))) for length in (3, 4, 3, 4)]
    assert found == [3, 4, 3, 4] and traced == [3, 4]


def test_the_name_is_of_config_plan_data_files_and_code(tmp_path, monkeypatch) -> None:
    config, plan, weights = Experiment(data=Grey()), Plan().resolve(), tmp_path / "weights.npz"
    tests = {"all": Test(SIM.data, np.full(len(SIM.data.sizes), -1, np.int32))}
    weights.write_bytes(b"some")
    (tmp_path / "a_users_module.py").write_text("rate = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("a_users_module")
    begun = replace(config, init_from=str(weights))

    def names() -> list[str]:
        runs = ((config, "8"), (config, "9"), (replace(config, seed=1), "8"), (begun, "8"))
        return [fingerprint.of_run(one, plan, data, SIM, tests) for one, data in runs]

    before = [*names(), fingerprint.of_run(config, replace(plan, lanes=7), "8", SIM, tests)]
    assert names() == before[:4] and len(set(before)) == 5
    weights.write_bytes(b"others")
    assert names()[:3] == before[:3] and names()[3] != before[3]
    (tmp_path / "a_users_module.py").write_text("rate = 2\n")
    assert not set(names()) & set(before)
    del sys.modules["a_users_module"]


def test_the_name_is_of_this_packages_code(tmp_path, monkeypatch) -> None:
    (tmp_path / "part.py").write_text("1")
    monkeypatch.setattr(fingerprint, "PACKAGE", pathlib.Path(tmp_path))
    before = list(fingerprint.code())
    (tmp_path / "part.py").write_text("2")
    assert list(fingerprint.code()) != before


ALGORITHM = """
from tiny import Grey
from fedjax_mri.core import trees
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.data.augment import Preprocess
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.tasks.classify import Classify
from dataclasses import dataclass
{scale}

@dataclass(frozen=True)
class Mine(FedAvg):
    def build(self):
        return super().build()._replace(server=server)

def server(server, aggregate):
    return server._replace(model=trees.add(server.model, trees.scale(FACTOR, aggregate.delta)))

config = Experiment(
    Grey(clients=2), rounds=1, algorithm=Mine(), sampling=Everyone(), local=LocalTraining(batch=4),
    task=Classify(network=LinearSettings(), preprocess=Preprocess(size=8)), plan=Plan(tune_s=0),
)
"""


def test_a_run_never_takes_the_program_of_another_ones_code(tmp_path, monkeypatch) -> None:
    """A factor in a config file becomes 0: the next run's figures are those of an empty cache."""

    def run(factor: float, out: str, cache: str) -> dict[str, float]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
        (tmp_path / "mine.py").write_text(ALGORITHM.format(scale=f"FACTOR = {factor}"))
        experiment.run(configs.load(tmp_path / "mine.py")[""], tmp_path / out, say=lambda line: None)
        assert list((tmp_path / cache / "fedjax_mri/programs").iterdir())
        last = runfolder.read_history(tmp_path / out)[-1]
        return {name: value for name, value in last.items() if name.startswith(("train/", "new sites/"))}

    moved, still = run(1.0, "first", "cache"), run(0.0, "second", "cache")
    assert moved and moved != still == run(0.0, "alone", "another")


def test_where_code_cannot_be_known_nothing_is_kept(tmp_path, monkeypatch) -> None:
    """An algorithm with an open file in its closure is trained all the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "mine.py"
    path.write_text(
        ALGORITHM.format(scale="class Factor(float): pass\nFACTOR = Factor(1)\nFACTOR.file = open(__file__)")
    )
    experiment.run(configs.load(path)[""], tmp_path / "run")
    assert not (tmp_path / "cache/fedjax_mri/programs").exists()
