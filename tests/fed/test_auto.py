"""The plan by measurement: what it tries, what it remembers, and what it does when nothing fits."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from simulations import CASES, classifier, images, simulation

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.engine import auto, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, initial_state
from fedjax_mri.nets.conv.compute import Compute

ROOT = jax.random.key(11)


def assemble(plan: Plan) -> Simulation:
    return simulation(classifier(compute=Compute(plan.conv, plan.precision, plan.remat)), images())


@pytest.fixture
def timings(monkeypatch):
    """Replaces the clockwork: what each candidate takes, and which were asked."""
    asked: list[Plan] = []
    ms: dict[tuple, float] = {}

    def compiled(plan: Plan, *_):
        asked.append(plan)
        if (plan.conv, plan.lanes) in ms:
            return lambda: ms[plan.conv, plan.lanes]
        raise UserError(f"plan.lanes={plan.lanes}: does not fit")

    monkeypatch.setattr(auto, "compile_trial", compiled)
    return ms, asked


def choose(folder: pathlib.Path, plan: Plan = Plan(devices=2)) -> tuple[Plan, list[str]]:  # noqa: B008
    said: list[str] = []
    return auto.choose_plan(plan, assemble, folder, said.append), said


def test_takes_the_fastest_and_remembers_it(tmp_path, timings) -> None:
    ms, asked = timings
    ms.update({("direct", 1): 3.0, ("direct", 2): 2.0, ("direct", 4): 5.0, ("gemm", 1): 4.0, ("gemm", 4): 1.0})
    plan, said = choose(tmp_path)
    assert (plan.conv, plan.lanes, plan.devices) == ("gemm", 4, 2) and len(asked) == 5
    assert (
        len(said) == 1
        and "1 ms an example" in said[0]
        and "direct convolutions, 2 lanes on each of 2 devices 2" in said[0]
    )
    again, said = choose(tmp_path)
    assert again == plan and len(asked) == 5 and "remembered in" in said[0]


def test_of_equals_within_noise_the_likeliest_is_taken(tmp_path, timings) -> None:
    ms, _ = timings
    ms.update({("direct", 1): 2.04, ("direct", 2): 2.0, ("direct", 4): 2.3})
    plan, said = choose(tmp_path)
    assert (plan.conv, plan.lanes) == ("direct", 1) and "2.04 ms an example" in said[0]


def test_candidates_take_turns_and_the_fastest_trial_counts() -> None:
    turns, times = [], {"a": iter([9.0, 2.0, 8.0, *[9.0] * 50]), "b": iter([3.0] * 50)}
    ready = [
        (Plan(lanes=n), lambda name=name: turns.append(name) or next(times[name])) for n, name in enumerate("ab", 1)
    ]
    found = auto.time_candidates(ready)
    assert turns[:4] == list("abab") and [trial.ms for trial in found] == [2.0, 3.0]


def test_what_the_user_set_stays(tmp_path, timings) -> None:
    ms, asked = timings
    ms.update({("direct", 3): 3.0, ("gemm", 3): 2.0})
    plan, _ = choose(tmp_path, Plan(devices=1, lanes=3))
    assert (plan.conv, plan.lanes, plan.devices) == ("gemm", 3, 1)
    assert {one.lanes for one in asked} == {3}
    fixed, said = choose(tmp_path, Plan(devices=1, lanes=2, conv="xla"))
    assert (fixed.lanes, fixed.conv) == (2, "xla") and not said


def test_time_is_bounded(tmp_path, timings) -> None:
    ms, asked = timings
    ms.update({("direct", 1): 3.0, ("gemm", 4): 1.0})
    plan, said = choose(tmp_path, Plan(devices=2, tune_s=1e-9))
    assert (plan.conv, plan.lanes) == ("direct", 1) and len(asked) == 1 and "nothing else measured" in said[0]
    assert choose(tmp_path, Plan(devices=2, tune_s=0)) == (Plan(devices=2, tune_s=0).resolve(), [])


def test_what_does_not_fit_is_passed_over_and_remat_is_the_last_resort(tmp_path, timings, monkeypatch) -> None:
    ms, asked = timings
    ms.update({("gemm", 1): 4.0})
    plan, said = choose(tmp_path)
    assert (plan.conv, plan.lanes, plan.remat) == ("gemm", 1, False) and "4 did not fit" in said[0]
    ms.clear()
    with pytest.raises(UserError, match="does not fit"):
        choose(tmp_path / "other")
    assert asked[-1].remat


@pytest.mark.parametrize(
    "damage", ["{", "[]", "{}", '{"made_with": 3}', '{"made_with": "jax 0.1", "choice": {}, "reason": "x"}']
)
def test_a_damaged_or_outdated_memory_is_passed_over_with_one_line(tmp_path, timings, damage) -> None:
    ms, _ = timings
    ms.update({("direct", 1): 3.0})
    choose(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(damage)
    plan, said = choose(tmp_path)
    assert plan.conv == "direct" and len(said) == 2 and "measuring again" in said[0] and str(file) in said[0]
    assert json.loads(file.read_text())["choice"]["lanes"] == 1  # mended


def test_memories_of_other_tasks_and_plans_are_others(tmp_path) -> None:
    def key(assemble, plan: Plan) -> str:
        return auto.cache_key(plan.resolve(), assemble(plan.resolve()), list(auto.candidates(plan)))

    plan, wider = Plan(devices=2), lambda plan: simulation(classifier(norm="batch"), images())
    keys = [key(assemble, plan), key(wider, plan), key(assemble, Plan(devices=1)), key(assemble, Plan(2, lanes=3))]
    assert len(set(keys)) == 4
    assert key(assemble, plan) == keys[0]


def test_changed_code_is_measured_anew(monkeypatch) -> None:
    """The memory is named after the program that is measured: whatever changes that has another name."""

    def key() -> str:
        plan = Plan(devices=2)
        return auto.cache_key(plan.resolve(), assemble(plan.resolve()), list(auto.candidates(plan)))

    before = key()
    monkeypatch.setattr(trees, "scale", lambda by, tree: trees.add(tree, tree))
    replaced = key()
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "assemble", lambda plan: CASES["uniform weights, clipped"]())
    clipped = key()
    monkeypatch.setattr(FedAvg, "_server", lambda self, server, aggregate: server)
    assert len({before, replaced, clipped, key()}) == 4
    monkeypatch.undo()
    assert key() == before


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_memory(tmp_path, timings) -> None:
    ms, _ = timings
    ms.update({("direct", 1): 3.0})
    (tmp_path / "file").write_text("")
    assert choose(tmp_path / "file" / "plans")[0].conv == "direct"


def test_measured_for_real_it_agrees_with_a_fixed_plan(tmp_path) -> None:
    chosen, said = choose(tmp_path, Plan(devices=2, tune_s=1e-9))
    assert said and chosen.lanes and chosen.conv != "auto"

    def after(plan: Plan) -> State:
        return segments.build(assemble(plan), plan, ROOT, 2)(initial_state(assemble(plan), plan, ROOT), 2)[0]

    fixed = dataclasses.replace(chosen, conv="xla", lanes=3, devices=1)
    for a, b in zip(jax.tree.leaves(after(chosen)), jax.tree.leaves(after(fixed)), strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5)


def test_a_trial_has_every_kind_of_data_and_client_state(tmp_path) -> None:
    for case in ("procedural, Adam, cohort of 5", "BatchNorm local"):
        plan = Plan(devices=1, lanes=1, conv="gemm", clients="host").resolve()
        assert auto.compile_trial(plan, lambda plan, case=case: CASES[case](), 2)() > 0


def test_a_program_that_cannot_fit_is_refused_before_it_runs(monkeypatch) -> None:
    monkeypatch.setattr(Plan, "memory", lambda self: 100e3)
    plan = Plan(devices=1, lanes=8).resolve()
    with pytest.raises(
        UserError, match=r"plan.lanes=8: the program needs .* MB more than its 0; choose --plan.lanes [1-7]$"
    ):
        segments.build(assemble(plan), plan, ROOT, 1)
    monkeypatch.setattr(Plan, "memory", lambda self: 1e3)
    monkeypatch.setattr(Plan, "budget", lambda self: 1e9)
    with pytest.raises(UserError, match=r"--plan.remat, or a smaller local.batch$"):
        segments.build(assemble(plan), plan, ROOT, 1)


@pytest.mark.parametrize(("lanes", "slots"), [(1, 10 / 10), (2, 12 / 10), (4, 16 / 10)])
def test_what_lanes_wait_in_the_tail_counts(lanes: int, slots: float) -> None:
    """Ten clients of one step each, by lanes on two devices: the longest queue bounds the round."""
    sim = simulation(classifier(), images(np.full(10, 2, np.int32)))
    sim = sim._replace(local=sim.local._replace(epochs=1))
    assert auto.slots_per_step(auto.first_cohort_steps(sim), 2 * lanes) == pytest.approx(slots)
