"""How good the server's model is, client by client."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri import trees
from fedjax_mri.data.client_data import Test
from fedjax_mri.fed.engine import AXIS, Kept, State
from fedjax_mri.fed.plan import Plan
from fedjax_mri.tasks.task import Metrics, Task

PyTree = Any
Evaluate = Callable[[State], tuple[Metrics, PyTree]]


def positions(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each example's client and index, int32 [n] both, in the order in which predictions come back."""
    client = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return client, (np.arange(len(client)) - starts).astype(np.int32)


def build(task: Task, plan: Plan, test: Test) -> Evaluate:
    """The compiled judgement of a state: metrics by test client [M, ...], and predictions by example [n, ...].

    Where clients keep a part of the model, a test client uses its owner's, and a site that took no part the mean
    over the clients that have trained.
    """
    client, index = positions(test.data.sizes)
    batch = min(plan.evaluate_batch, -(-len(client) // plan.devices))
    padding = -len(client) % (plan.devices * batch)
    examples = [np.pad(each, (0, padding)) for each in (client, index, np.ones(len(client), np.float32))]

    def judge(state: State, store: PyTree, *examples: jax.Array) -> tuple[Metrics, PyTree]:
        def one(client: jax.Array, index: jax.Array, weight: jax.Array) -> tuple[Metrics, PyTree]:
            model = trees.join(state.server.model, own(state.clients, jnp.asarray(test.owner)[client]))
            batch = {**test.data.read(store, client, index[None]), "weight": weight[None]}
            result = task.evaluate(*model, batch), task.predict(*model, batch)
            return result[0], jax.tree.map(lambda x: x[0], result[1])

        return by_client(one, len(test.data.sizes), batch, examples)

    whole, mine = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    specs = {"in_specs": (whole, whole, mine, mine, mine), "out_specs": (whole, mine), "check_vma": False}
    compiled = jax.jit(jax.shard_map(judge, mesh=plan.mesh(), **specs))

    def evaluate(state: State) -> tuple[Metrics, PyTree]:
        metrics, predictions = compiled(state, test.data.store, *examples)
        return jax.tree.map(np.asarray, (metrics, trees.take(predictions, slice(len(client)))))

    return evaluate


def by_client(one: Callable[..., Any], clients: int, batch: int, examples: tuple[jax.Array, ...]) -> Any:
    """`one` mapped over this device's examples, `batch` at a time: metrics summed by client, predictions in order."""
    chunks = tuple(each.reshape(-1, batch) for each in examples)
    shapes = jax.eval_shape(lambda: one(*(each[0, 0] for each in chunks))[0])
    zero = trees.zeros_like(jax.tree.map(lambda x: jax.ShapeDtypeStruct((clients, *x.shape), x.dtype), shapes))

    def body(total: Metrics, chunk: tuple[jax.Array, ...]) -> tuple[Metrics, PyTree]:
        metrics, predictions = jax.vmap(one)(*chunk)
        return jax.tree.map(lambda t, m: t.at[chunk[0]].add(m), total, metrics), predictions

    total, predictions = jax.lax.scan(body, zero, chunks)
    return jax.lax.psum(total, AXIS), jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), predictions)


def own(clients: Kept, owner: jax.Array) -> PyTree:
    """The part of the model that stays with `owner` int32 []; for -1 the mean over clients that have trained."""
    trained = (clients.rounds > 0).astype(jnp.float32)
    share = trained / jnp.maximum(trained.sum(), 1.0)

    def pick(leaf: jax.Array) -> jax.Array:
        average = jnp.tensordot(share, leaf.astype(jnp.float32), 1).astype(leaf.dtype)
        return jnp.where(owner < 0, jnp.where(trained.sum() > 0, average, leaf[0]), leaf[owner])

    return jax.tree.map(pick, clients.model)
