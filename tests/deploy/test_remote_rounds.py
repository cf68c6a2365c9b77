"""What clients and server compute, with messages between them, gives the simulation's rounds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hospitals import write_config, write_images

from fedjax_mri.core import trees
from fedjax_mri.deploy import wire
from fedjax_mri.fed.algorithm import sent_shapes
from fedjax_mri.fed.engine import remote, segments
from fedjax_mri.fed.engine.placement import all_examples
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import draw_cohort, initial_state, state_shapes
from fedjax_mri.run import config as configs
from fedjax_mri.run.assemble import assemble, build_federation, describe

NOISE = ["--privacy.epsilon", "0", "--privacy.noise"]
FLAGS = {  # name of an algorithm -> how an experiment differs from FedAvg; each with another part of the uplink
    "plain": [],
    "fednova": ["--local.steps", "2", "--fed.uplink.stages", "qsgd"],
    "fedadam": ["--fed.privacy", "client", *NOISE, "0.05", "--privacy.quantile", ".5"],
    "fedavgm": ["--fed.privacy", "patient", *NOISE, "1.0", "--privacy.unit", "image"],
    "fedbuff": ["--fed.privacy", "local", *NOISE, "0.1"],
    "feddyn": ["--fed.uplink.stages", "topk", "--uplink.stages.0.feedback", "ef21", "--uplink.stages.0.share", ".1"],
    "scaffold": ["--fed.sampling", "uniform", "--sampling.cohort", "3", "--sampling.replace", "true"],
    "ditto": ["--fed.uplink.reduce", "median", "--fed.downlink", "scaledsign"],
}
ALGORITHMS = [name for name in FLAGS if name != "plain"]
ROUNDS = 3


def own_algorithm(name: str) -> list[str]:
    return [] if name == "plain" else ["--fed.algorithm", name]


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return configs.load(write_config(folder, {name: own_algorithm(name) + flags for name, flags in FLAGS.items()}))


@pytest.fixture(scope="module")
def federation(experiments):
    return build_federation(experiments["plain"])


def build(config, federation, plan):
    return assemble(config, describe(federation), federation.train, plan)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_rounds_by_messages_are_those_of_the_simulation(name, experiments, federation) -> None:
    plan, root = Plan(devices=1, lanes=1, tune_s=0).resolve(), jax.random.key(experiments[name].seed)
    sim = build(experiments[name], federation, plan)
    first = initial_state(sim, plan, root)
    state, rows = first, [jax.tree.map(lambda leaf, i=i: leaf[i], first.clients) for i in range(4)]
    placed, shapes = jax.device_put(all_examples(sim.data)), sent_shapes(sim.algorithm, first.server.model)
    train_client = jax.jit(partial(remote.train_client, sim, plan))
    aggregate_round = jax.jit(partial(remote.aggregate_round, sim))
    mask = remote.uplink_broadcast_mask(sim, jax.eval_shape(lambda: first))
    for number in range(ROUNDS):
        cohort = jax.device_get(draw_cohort(sim, root, jnp.int32(number)))
        sent = sim.algorithm.broadcast(state.server, jnp.int32(0)), trees.split(mask, state.uplink)[0]
        server, uplink = wire.unpack(wire.pack(sent), jax.eval_shape(lambda sent=sent: sent), "the server")
        hidden = jax.tree.map(lambda leaf: leaf * jnp.nan, trees.split(mask, state.uplink)[1])
        received = state._replace(server=server, uplink=trees.join(uplink, hidden), clients=())
        updates = [jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)] * len(cohort.client)
        for place, client in enumerate(cohort.client):
            if cohort.present[place]:
                times = jnp.float32(cohort.times[place])
                result = train_client(received, root, placed, jnp.int32(client), times, rows[client])
                rows[client] = result.row
                updates[place] = wire.unpack(wire.pack(result.update, compressed=True), shapes, str(client))
        stacked = jax.tree.map(lambda *each: np.stack(each), *updates)
        state = aggregate_round(state, root, sim.data.sizes, cohort.client, stacked, cohort.present)
    many = Plan(devices=1, lanes=2, tune_s=0).resolve()
    simulated, *_ = segments.build(sim, many, root, ROUNDS)(initial_state(sim, many, root), ROUNDS)
    kept = jax.tree.map(lambda *each: np.stack(each), *rows)
    same((state.server, state.uplink, kept), (simulated.server, simulated.uplink, simulated.clients))
    before, after = jax.device_get((initial_state(sim, plan, root).server.model, state.server.model))
    assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after))) > 1e-2


def same(found, expected) -> None:
    """Compares two trees leaf by leaf."""
    expected = trees.named(jax.device_get(expected))
    for name, value in trees.named(jax.device_get(found)).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_noise_of_earlier_rounds_does_not_travel(experiments, federation) -> None:
    given = "--fed.privacy client --privacy.epsilon 0 --privacy.noise 1 --privacy.bands 2 --fed.sampling cyclic"
    config = configs.override(experiments["plain"], [*given.split(), "--sampling.cohort", "2"])
    sim = build(config, federation, Plan(devices=1, lanes=1).resolve())
    mask = remote.uplink_broadcast_mask(sim, state_shapes(sim))
    travels = {name for name, used in trees.named(mask).items() if used}
    assert travels == {"reduce.bound"} and len(trees.named(mask)) > 2
