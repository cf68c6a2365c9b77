"""The plan by measurement: what it tries, what it remembers, and what it does when nothing fits."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from simulations import CASES, classifier, images, linear, simulation

from fedjax_mri.core import devices, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.engine import auto, segments, work
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, initial_state
from fedjax_mri.fed.sampling import Everyone, Population
from fedjax_mri.nets.conv.compute import Compute

ROOT = jax.random.key(11)


def assemble(plan: Plan) -> Simulation:
    """A linear model, which is traced in half the time and has all that is asked of a plan but convolutions."""
    return simulation(linear(), images())


def convolutional(plan: Plan) -> Simulation:
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
    found, _ = auto.time_candidates(ready)
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


def test_a_run_that_is_over_sooner_than_the_measurement_takes_the_first_plan(tmp_path, timings) -> None:
    ms, asked = timings
    ms.update({("direct", 1): 3e-6, ("direct", 2): 1e-6, ("gemm", 4): 1e-6})
    said: list[str] = []
    plan = auto.choose_plan(Plan(devices=2), assemble, tmp_path, said.append, rounds=1)
    assert (plan.conv, plan.lanes) == ("direct", 1) and len(asked) == 1 and "measured again next time" in said[0]
    ms["direct", 1] = 3e3
    plan = auto.choose_plan(Plan(devices=2), assemble, tmp_path, said.append, rounds=1)
    assert plan.lanes == 2 and len(asked) == 6 and "next time" not in said[1]


def test_what_does_not_fit_is_passed_over_and_remat_is_the_last_resort(tmp_path, timings, monkeypatch) -> None:
    ms, asked = timings
    ms.update({("gemm", 1): 4.0})
    plan, said = choose(tmp_path)
    assert (plan.conv, plan.lanes, plan.remat) == ("gemm", 1, False) and "4 did not fit" in said[0]
    ms.clear()
    with pytest.raises(UserError, match="does not fit"):
        choose(tmp_path / "other")
    assert asked[-1].remat


OUT_OF_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
NO_TILES = jax.errors.JaxRuntimeError("INTERNAL: Couldn't find output tile sizes\n  at line 3")


@pytest.fixture
def refused(monkeypatch):
    """Candidates of which some are refused when they are compiled, or when they are run: by (conv, lanes)."""
    compiling: dict[tuple, Exception] = {}
    running: dict[tuple, Exception] = {}

    def compiled(plan: Plan, *_):
        name = plan.conv, plan.lanes
        if name in compiling:
            raise compiling[name]
        if name in running:
            return lambda: raise_(running[name])
        return lambda: 2.0

    monkeypatch.setattr(auto, "compile_trial", compiled)
    return compiling, running


def raise_(error: Exception) -> float:
    raise error


def test_a_candidate_that_the_compiler_refuses_is_passed_over_and_counted(tmp_path, refused) -> None:
    compiling, _ = refused
    compiling.update(
        {("direct", 1): NO_TILES, ("direct", 2): NotImplementedError("no rule"), ("gemm", 1): UserError("x")}
    )
    plan, said = choose(tmp_path)
    assert (plan.conv, plan.lanes) == ("direct", 4) and len(said) == 1 and "\n" not in said[0]
    assert (
        "1 did not fit; 2 refused, the first by JaxRuntimeError: INTERNAL: Couldn't find output tile sizes" in said[0]
    )
    assert "remembered" in choose(tmp_path)[1][0]  # the compiler will refuse it again


def test_a_candidate_whose_run_ends_in_an_error_is_passed_over_and_the_choice_not_kept(tmp_path, refused) -> None:
    _, running = refused
    running[("direct", 1)] = OUT_OF_MEMORY
    plan, said = choose(tmp_path)
    assert (plan.conv, plan.lanes) == ("direct", 2)
    assert "1 refused, the first by JaxRuntimeError: RESOURCE_EXHAUSTED" in said[0] and "measured again" in said[0]
    running.clear()
    assert choose(tmp_path)[0].lanes == 1


@pytest.mark.parametrize(
    ("error", "remedy"), [(OUT_OF_MEMORY, "--plan.lanes 1 or a smaller local.batch"), (NO_TILES, "--plan.conv xla")]
)
def test_where_all_candidates_are_refused_one_line_has_the_first_reason_and_a_remedy(
    tmp_path, refused, error, remedy
) -> None:
    compiling, running = refused
    compiling.update({("direct", lanes): error for lanes in (1, 2, 4)})
    running.update({("gemm", lanes): MemoryError() for lanes in (1, 4)})
    with pytest.raises(UserError, match=f"none of 5 plans works; direct.*: {str(error)[:20]}.*{remedy}") as caught:
        choose(tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [TypeError("a bug"), NotImplementedError("to do")])
def test_an_error_of_the_task_itself_is_shown_as_it_is(tmp_path, error) -> None:
    def loss(*_):
        raise error

    def broken(plan: Plan) -> Simulation:
        sim = assemble(plan)
        phases = tuple(phase._replace(loss=loss) for phase in sim.task.phases)
        return sim._replace(task=sim.task._replace(phases=phases))

    with pytest.raises(type(error), match=str(error)):
        auto.choose_plan(Plan(devices=2), broken, tmp_path, lambda line: None)


def test_an_error_of_a_task_that_only_one_candidate_meets_is_shown_as_it_is(tmp_path, refused) -> None:
    compiling, _ = refused
    compiling[("direct", 2)] = TypeError("a bug")
    with pytest.raises(TypeError, match="a bug"):
        choose(tmp_path)


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
    said = list[str]()
    chosen = auto.choose_plan(Plan(devices=2, tune_s=1e-9), convolutional, tmp_path, said.append)
    assert said and chosen.lanes and chosen.conv != "auto"

    def after(plan: Plan) -> State:
        return segments.build(convolutional(plan), plan, ROOT, 2)(initial_state(convolutional(plan), plan, ROOT), 2)[0]

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
        segments.build(convolutional(plan), plan, ROOT, 1)
    monkeypatch.setattr(Plan, "memory", lambda self: 1e3)
    monkeypatch.setattr(Plan, "budget", lambda self: 1e9)
    with pytest.raises(UserError, match=r"--plan.remat, or a smaller local.batch$"):
        segments.build(convolutional(plan), plan, ROOT, 1)


@pytest.mark.parametrize(("lanes", "slots"), [(1, 10 / 10), (2, 12 / 10), (4, 16 / 10)])
def test_what_lanes_wait_in_the_tail_counts(lanes: int, slots: float) -> None:
    """Ten clients of one step each, by lanes on two devices: the longest queue bounds the round."""
    sim = simulation(classifier(), images(np.full(10, 2, np.int32)))
    sim = sim._replace(local=sim.local._replace(epochs=1))
    assert auto.slots_per_step(auto.first_cohort_steps(sim), 2 * lanes) == pytest.approx(slots)


def on(monkeypatch, platform: str) -> None:
    """Lets this machine's devices pass for those of another platform, for which nothing is run."""
    here = devices.current()
    monkeypatch.setattr(devices, "current", lambda: here._replace(platform=platform))


@pytest.mark.parametrize(
    ("platform", "gflop", "wanted"),
    [
        ("gpu", 15, ("each", 4)),
        ("gpu", 480, ("each", 1)),
        ("gpu", 3, ("gemm", 16)),
        ("tpu", 0.5, ("xla", 4)),
        ("tpu", 15, ("xla", 1)),
    ],
)
def test_by_rule_an_accelerator_has_lanes_by_the_work_of_a_step(monkeypatch, platform, gflop, wanted) -> None:
    on(monkeypatch, platform)
    monkeypatch.setattr(work, "product_flops", lambda jaxpr: 1e9 * gflop)
    everyone = np.full(64, 3, np.int32)

    def many(plan: Plan) -> Simulation:
        sim = assemble(plan)
        return sim._replace(sampler=Everyone().build(Population(everyone)))

    plan = auto.plan_by_rule(Plan(devices=1), many)
    assert (plan.conv, plan.lanes) == wanted
    assert auto.plan_by_rule(Plan(devices=1, lanes=3, conv="gemm"), many).lanes == 3
    assert auto.choose_plan(Plan(devices=1, tune_s=0), many, pathlib.Path(), lambda line: None) == dataclasses.replace(
        plan, tune_s=0
    )


def test_a_device_has_no_more_lanes_by_rule_than_clients_in_a_round(monkeypatch) -> None:
    on(monkeypatch, "gpu")
    cohort = jax.eval_shape(assemble(Plan().resolve()).sampler.draw, ROOT, 0).client.size
    assert 2 < auto.plan_by_rule(Plan(devices=1), assemble).lanes == cohort < 64
    assert auto.plan_by_rule(Plan(devices=2), assemble).lanes == -(-cohort // 2)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("lanes", [1, 4, 16, 64])
def test_candidates_of_an_accelerator_begin_with_the_plan_by_rule_and_differ(monkeypatch, platform, lanes) -> None:
    on(monkeypatch, platform)
    found = list(auto.candidates(Plan(devices=1), lanes))
    assert found[0].lanes == lanes and len(set(found)) == len(found) >= 3
    assert {one.conv for one in auto.candidates(Plan(devices=1, lanes=3), lanes)} == {one.conv for one in found}
    assert {one.lanes for one in auto.candidates(Plan(devices=1, lanes=3), lanes)} == {3}
