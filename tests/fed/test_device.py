"""The engine on an accelerator: each way to compute convolutions, and each number of lanes, equals a plain loop.

These tests run where JAX has an accelerator, or where the environment has FEDJAX_MRI_DEVICE_TESTS=1 (then on the CPU,
to see that they work). `scripts/device_check.sh` runs them with others.
"""

import functools
import os

import jax
import numpy as np
import pytest
from simulations import CASES, classifier, images, plain_round, simulation

from fedjax_mri.core.programs import ProgramCache
from fedjax_mri.fed.engine import auto, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, init_state, initial_state
from fedjax_mri.nets.conv.compute import Compute

ASKED = jax.default_backend() != "cpu" or os.environ.get("FEDJAX_MRI_DEVICE_TESTS") == "1"
pytestmark = [pytest.mark.device, pytest.mark.skipif(not ASKED, reason="there is no accelerator")]
ROOT, ROUNDS = jax.random.key(11), 2
KINDS = ("resident", "BatchNorm local", "two phases, a player at home", "stages with state, cohort of 4", "cyclegan")


@functools.cache
def on_the_cpu(case: str) -> State:
    """Returns the state after some rounds of a plain loop over clients."""
    with jax.default_device(jax.devices("cpu")[0]):
        sim = CASES[case]()
        state = jax.jit(functools.partial(init_state, sim))(ROOT)
        for _ in range(ROUNDS):
            state = plain_round(sim, state, ROOT)
        return jax.tree.map(np.asarray, state)


def trained(sim: Simulation, plan: Plan, cache: ProgramCache | None = None) -> State:
    plan = plan.resolve()
    return segments.build(sim, plan, ROOT, ROUNDS, cache)(initial_state(sim, plan, ROOT), ROUNDS)[0]


def difference(found: State, wanted: State) -> float:
    """Returns the largest difference of a leaf, relative to the largest value in it or to 1."""
    gaps = [
        np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)), initial=0) / max(1, np.max(np.abs(b)))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
        if np.issubdtype(np.asarray(b).dtype, np.number)
    ]
    return float(max(gaps))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("case", KINDS)
def test_rounds_on_the_device_equal_a_plain_loop_on_the_cpu(case, lanes, record_property) -> None:
    found = difference(trained(CASES[case](), Plan(devices=1, lanes=lanes)), on_the_cpu(case))
    record_property("difference", found)
    assert found < 1e-3


@pytest.mark.parametrize("conv", ["xla", "gemm", "each", "direct"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("tf32", 2e-2), ("bf16", 0.2)])
def test_convolutions_agree_to_their_precision(conv, precision, tolerance, record_property) -> None:
    def of(conv: str, precision: str) -> State:
        sim = simulation(classifier(compute=Compute(conv, precision)), images())
        return trained(sim, Plan(devices=1, lanes=4, conv=conv, precision=precision))

    found = difference(of(conv, precision), jax.tree.map(np.asarray, of("xla", "float32")))
    record_property("difference", found)
    assert found < tolerance


def test_a_program_that_was_exported_does_the_same(tmp_path) -> None:
    cache, plan = ProgramCache(tmp_path, "this run", print), Plan(devices=1, lanes=2)
    first = jax.tree.map(np.asarray, trained(CASES["resident"](), plan, cache))
    assert list(tmp_path.iterdir()), "it was not exported"
    assert difference(trained(CASES["resident"](), plan, cache), first) == 0


def test_every_candidate_of_the_plan_runs_or_is_refused_in_a_line(tmp_path) -> None:
    said: list[str] = []

    def assemble(plan: Plan) -> Simulation:
        return simulation(classifier(compute=Compute(plan.conv, plan.precision, plan.remat)), images())

    plan = auto.choose_plan(Plan(devices=1), assemble, tmp_path, said.append)
    assert plan.lanes and plan.conv != "auto" and len(said) == 1
