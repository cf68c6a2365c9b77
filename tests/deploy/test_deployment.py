"""Hospitals as folders and a server, called in this process, give what the simulation gives; and what they refuse."""

import functools

import jax
import numpy as np
import pytest
from hospitals import NAMES, deploy, simulated

from fedjax_mri.core import trees
from fedjax_mri.deploy import coordinator, hospital, parts
from fedjax_mri.run import config as configs

NOISE = ["--privacy.epsilon", "0", "--privacy.noise"]
FLAGS = {  # name of an experiment -> how it differs from FedAvg
    "fedavg": [],
    "scaffold": ["--fed.algorithm", "scaffold"],
    "fednova": ["--fed.algorithm", "fednova", "--local.steps", "2"],
    "adaptive": ["--fed.privacy", "client", *NOISE, "0.05", "--privacy.quantile", ".5"],
    "patient": ["--fed.privacy", "patient", *NOISE, "1.0", "--privacy.unit", "image"],
    "feedback": ["--fed.uplink.stages", "topk", "--uplink.stages.0.feedback", "ef21", "--uplink.stages.0.share", ".1"],
    "drawn": ["--fed.sampling", "uniform", "--sampling.cohort", "3", "--sampling.replace", "true"],
    "median": ["--fed.uplink.reduce", "median", "--fed.downlink", "scaledsign"],
}


@pytest.fixture(scope="module", autouse=True)
def one_process_for_all():
    """Four hospitals in this process: their programs and data are kept for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("seat", "federation_of"):
            patch.setattr(hospital, name, functools.lru_cache(8)(getattr(hospital, name).__wrapped__))
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return deploy(tmp_path_factory.mktemp("federation"), FLAGS)


def start(out, name, folder):
    config = parts.experiments(out / "server")[name]

    def gather():
        return [hospital.facts(out / site, name, configs.digest(config)) for site in NAMES]

    return coordinator.start(config, name, folder, "config", gather, print)


def ask_of(out, run, absent=lambda order: ()):
    def ask(orders, leaves):
        here = {client: order for client, order in orders.items() if run.roster.names[client] not in absent(order)}
        return {client: hospital.train(out / run.roster.names[client], order, leaves) for client, order in here.items()}

    return ask


@pytest.mark.parametrize("name", FLAGS)
def test_hospitals_and_a_server_give_what_the_simulation_gives(name, out) -> None:
    run, state = start(out, name, out / "server" / "runs" / name)
    trained = coordinator.train(run, state, ask_of(out, run), print)
    expected = trees.named(simulated(run.config))
    for leaf, value in trees.named(jax.device_get(trained.server.model)).items():
        np.testing.assert_allclose(value, expected[leaf], rtol=1e-5, atol=1e-5, err_msg=leaf)
    assert max(np.abs(value - start_value).max() for value, start_value in zip(
        jax.tree.leaves(trained.server.model), jax.tree.leaves(state.server.model))) > 1e-2  # fmt: skip
