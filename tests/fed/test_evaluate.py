"""Evaluation: client by client, whatever the devices and the batch, with the right private parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import SIZES, classifier, images, simulation

from fedjax_mri.core import trees
from fedjax_mri.data.contract import Test
from fedjax_mri.fed.engine import evaluate
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import State, init_state, place_state

OWNER = np.array([0, 1, 2, 3, 4, 5, 6, -1, -1], np.int32)
SIM = simulation(classifier(norm="batch", statistics="local"), images())


def state() -> State:
    """Clients whose statistics all differ; client 1 has never trained."""
    fresh = jax.jit(functools.partial(init_state, SIM))(jax.random.key(0))
    kept = fresh.clients
    factor = jnp.arange(1, len(SIZES) + 1, dtype=jnp.float32)[:, None]
    statistics = jax.tree.map(lambda x: x + 0.1 * factor, kept.model)
    return fresh._replace(clients=kept._replace(model=statistics, rounds=jnp.asarray(SIZES > 0).astype(jnp.int32)))


def by_loop(now: State) -> tuple[list, list]:
    """One client at a time, all its examples as one batch."""
    trained = np.flatnonzero(np.asarray(now.clients.rounds))
    metrics, predictions = [], []
    evaluated, predicted = jax.jit(SIM.task.evaluate), jax.jit(SIM.task.predict)
    for client, owner in enumerate(OWNER):
        kept = jax.tree.map(lambda x, o=owner: x[trained].mean(0) if o < 0 else x[o], now.clients.model)
        model = trees.join(now.server.model, kept)
        index = jnp.arange(max(int(SIZES[client]), 1), dtype=jnp.int32)
        batch = SIM.data.read(SIM.data.store, jnp.int32(client), index)
        batch["weight"] = jnp.full(len(index), float(SIZES[client] > 0))
        metrics.append(evaluated(*model, batch))
        predictions.append(predicted(*model, batch)[: SIZES[client]])
    return metrics, predictions


@pytest.mark.parametrize(("devices", "batch", "where"), [(1, 256, "device"), (2, 3, "host"), (8, 5, "device")])
def test_equals_a_loop_over_clients(devices, batch, where) -> None:
    now, plan = state(), Plan(devices=devices, lanes=1, evaluate_batch=batch).resolve()
    judged = evaluate.build(SIM.task, plan, {"all": Test(SIM.data, OWNER)})(
        place_state(dataclasses.replace(plan, clients=where), now)
    )["all"]
    metrics, predictions = by_loop(now)
    stacked = jax.tree.map(lambda *x: np.stack(x), *metrics)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), judged.metrics, stacked)
    np.testing.assert_allclose(judged.kept["predictions"], np.concatenate(predictions), atol=1e-5)
    np.testing.assert_array_equal(judged.kept["truth"], SIM.data.store.fields["label"])
    assert judged.metrics.weight.sum() == SIZES.sum()
