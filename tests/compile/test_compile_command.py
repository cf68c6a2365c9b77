"""`fedjax-mri compile` as it is typed; for absent machines where their compilers are installed."""

import importlib.util
import json
import pathlib

import jax
import pytest

from fedjax_mri.cli.commands import main
from fedjax_mri.compile import estimate, hlo, kernels, machines, targets
from fedjax_mri.compile.kernels import Collective
from fedjax_mri.core import devices, trees
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import state_shapes
from fedjax_mri.run.assemble import assemble, describe
from fedjax_mri.run.config import Experiment

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "synthetic.py"
TINY = [
    "--data.clients",
    "12",
    "--sampling.cohort",
    "6",
    "--rounds",
    "4",
    "--evaluate-every",
    "2",
    "--plan.devices",
    "0",
]


def needs(platform: str) -> None:
    """Skips a test where the compiler for a platform is not installed."""
    module, extra = targets.PLUGINS[platform]
    if not targets.is_installed(module):
        pytest.skip(f"the compiler of extra {extra} is not installed")


@pytest.fixture(scope="module")
def tiny() -> Experiment:
    from fedjax_mri.run import config

    return config.override(config.load(CONFIG)[""], TINY)


@pytest.fixture(scope="module", params=["h200:2", "v5e:4"])
def found(request, tmp_path_factory) -> dict:
    """What `compile` writes for a machine that is not here."""
    needs(machines.parse(request.param).accelerator.platform)
    path = tmp_path_factory.mktemp("found") / "found.json"
    words = ["compile", str(CONFIG), "--for", request.param, "--lanes", "1", "2", "--out", str(path)]
    assert main([*words, *TINY]) == 0
    content = json.loads(path.read_text())
    assert content["machine"] == request.param and "nothing was run" in content["what"]
    return content["experiments"][0]


def model_bytes(config: Experiment) -> int:
    federation = config.data.build(config.seed)
    sim = assemble(config, describe(federation), federation.train, config.plan.resolve())
    return trees.nbytes(state_shapes(sim).server.model)


def check_collectives(collectives: list[Collective], config: Experiment) -> None:
    """The model's update crosses the network once in a round, counters beside it, and nothing in a local step."""
    large = [each for each in collectives if each.bytes >= model_bytes(config)]
    assert [(each.kind, each.part, each.times) for each in large] == [("all-reduce", "round", 1)]
    assert large[0].bytes < model_bytes(config) + 1000  # a few counters of each client beside it
    assert {each.part for each in collectives} == {"round"} and len(collectives) <= 4


def test_the_update_crosses_the_network_once_in_a_round(found, tiny) -> None:
    for plan in found["plans"]:
        check_collectives([Collective(**each) for each in plan["collectives"]], tiny)


def test_the_same_holds_on_this_machine(tiny) -> None:
    plan = Plan(devices=2, lanes=1, conv="gemm").resolve()
    federation = tiny.data.build(tiny.seed)
    sim = assemble(tiny, describe(federation), federation.train, plan)
    program = segments.compile_for_shapes(sim, plan, 2)
    events = kernels.events(hlo.parse(program.as_text()))
    check_collectives([event for event in events if isinstance(event, Collective)], tiny)
    work = estimate.work_of(events)
    batch, (inputs, classes) = sim.local.batch, (60, 10)
    of_layer = 2 * 2 * batch * inputs * classes  # its product, and its gradient by the kernel
    assert of_layer <= work.flops < 1.25 * of_layer  # the bias's gradient is a product with ones
    assert work.bytes > 4 * batch * inputs and work.kernels > 3


def test_the_memory_is_that_of_the_state_and_the_examples(found, tiny) -> None:
    federation = tiny.data.build(tiny.seed)
    sim = assemble(tiny, describe(federation), federation.train, tiny.plan.resolve())
    least = trees.nbytes(sim.data.store) + trees.nbytes(state_shapes(sim))
    for plan in found["plans"]:
        memory = plan["memory_bytes"]
        assert least <= memory["arguments"] and memory["arguments"] + memory["temporaries"] < memory["available"]


def test_the_estimate_names_a_plan_that_training_accepts(found, tmp_path) -> None:
    run = ["train", str(CONFIG), "--out", str(tmp_path / "run"), *TINY, *found["best"].split()]
    assert main(run) == 0
    plan = json.loads((tmp_path / "run" / "config.json").read_text())["plan"]
    assert plan["lanes"] in (1, 2) and plan["devices"] == found["plans"][0]["plan"]["devices"]


def test_the_estimated_run_is_its_rounds_and_evaluations(found) -> None:
    for plan in found["plans"]:
        seconds = plan["estimated_s"]
        whole = 4 * seconds["round"]["total"] + 3 * seconds["evaluation"]["total"]
        assert seconds["run"]["total"] == pytest.approx(whole)
        assert set(map(int, plan["estimated_round_s_by_devices"])) >= {1, 2}


def test_other_programs_are_compiled_for_this_machine_afterwards(found) -> None:
    assert devices.current().every == tuple(jax.devices())
    assert float(jax.jit(lambda x: x + 1)(1.0)) == 2.0


def test_a_missing_compiler_is_named_with_its_extra(monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["compile", str(CONFIG), "--for", "v5e:4"]) == 1
    lacking = "error: --for v5e:4: the compiler for it is missing"
    remedy = "in the folder of fedjax_mri's source, run pip install '.[aot-tpu]'"
    assert capsys.readouterr().err == f"{lacking}; {remedy}\n"


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ("h900:8", "give KIND:NUMBER such as h200:8, of the kinds a100, h100, h200, b200, v5e, v5p, v6e"),
        ("h200", "give KIND:NUMBER"),
        ("h200:0", "give KIND:NUMBER"),
        ("h200:12", "a host has 8 of them; give a number up to that or a multiple"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(machine, says, capsys) -> None:
    assert main(["compile", str(CONFIG), "--for", machine]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: --for {machine}: ") and says in error and error.count("\n") == 1


def test_lanes_that_cannot_be_are_refused(capsys) -> None:
    assert main(["compile", str(CONFIG), "--for", "h200:8", "--lanes", "4", "0"]) == 1
    assert capsys.readouterr().err == "error: --lanes 0: must be 1 or more\n"


@pytest.mark.parametrize(("machine", "shape"), [("v5e:1", "1x1"), ("v5e:8", "2x4"), ("v5e:256", "16x16")])
def test_a_slice_of_a_tpu_is_as_square_as_it_can_be(machine, shape) -> None:
    assert targets.tpu_shape(machines.parse(machine)) == f"v5e:{shape}"


def test_a_slice_in_three_dimensions_has_its_longest_side_first() -> None:
    assert targets.tpu_shape(machines.parse("v5p:16")) == "v5p:4x2x2"


@pytest.mark.parametrize(
    ("rounds", "devices"), [({1: 8.0, 2: 4.0, 4: 2.1, 8: 2.0}, 4), ({1: 1.0, 2: 0.9}, 1), ({1: 1.0}, 1)]
)
def test_devices_help_as_long_as_a_doubling_saves_a_fifth(rounds, devices) -> None:
    assert estimate.helpful_devices(rounds) == devices


def test_show_answers_for_a_machine_that_is_not_here(capsys) -> None:
    assert main(["show", str(CONFIG), "--for", "h200:8", *TINY]) == 0
    out = capsys.readouterr().out
    assert "over 8 x 4 lanes" in out
    assert "32 lanes for a cohort of 6, so 26 stay idle; choose --plan.lanes 1" in out
