"""Programs with the options for XLA that users' programs have; all other tests leave them out to be quick."""

import jax
import numpy as np
from simulations import CASES

from fedjax_mri.core import programs
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import State, initial_state

ROOT = jax.random.key(11)


def trained() -> State:
    """The state after two rounds of the classifier on one device."""
    sim, plan = CASES["resident"](), Plan(devices=1, lanes=2, conv="gemm").resolve()
    return segments.build(sim, plan, ROOT, 2)(initial_state(sim, plan, ROOT), 2)[0]


def test_the_options_that_users_have_are_known_and_change_no_result(users_options, monkeypatch) -> None:
    assert programs.xla_options() is None
    quick = trained()
    options = users_options()
    assert options["xla_backend_optimization_level"] == 1 and programs.has_options(options)
    assert not programs.has_options({"xla_no_such_option": True})
    monkeypatch.setattr(programs, "xla_options", users_options)
    for ours, theirs in zip(jax.tree.leaves(trained()), jax.tree.leaves(quick), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
