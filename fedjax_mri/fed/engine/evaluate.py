"""How good the server's model is, client by client."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from fedjax_mri.core import programs, trees
from fedjax_mri.core.programs import ProgramCache, Shardings
from fedjax_mri.data import resident
from fedjax_mri.data.augment import middle_slices
from fedjax_mri.data.contract import Batch, ClientData, Test
from fedjax_mri.fed.engine.plan import AXIS, Plan
from fedjax_mri.fed.engine.simulation import ClientRow, State
from fedjax_mri.tasks.task import Carry, Metrics, Params, Task

PyTree = Any


class Evaluation(NamedTuple):
    """A model on one test set of M clients and n examples."""

    metrics: Metrics  # [M, ...]
    kept: dict[str, np.ndarray]  # fields [n, ...], what the task keeps of each example


def build(
    task: Task, plan: Plan, tests: Mapping[str, Test], cache: ProgramCache | None = None, what: str = "judge"
) -> Callable[[State], dict[str, Evaluation]]:
    """The compiled judgement of a state on each test set.

    Where clients keep a part of the model, a test client uses its owner's, and a site that took no part the mean
    over the clients that have trained, or what `task.newcomer` makes of it. Test examples are held whole by every
    device. Traced programs are kept on `cache`, as `what`.
    """
    readers = list(dict.fromkeys(test.data.read for test in tests.values()))
    form = Shardings(plan.everywhere(), (plan.everywhere(), plan.divided()))
    # Test sets that are read by one function share one program.
    program = {
        read: programs.compile_when_called(evaluate_on_devices(task, plan, read), form, cache, f"{what} {number}")
        for number, read in enumerate(readers)
    }
    dealt = {name: chunk_examples(test.data.sizes, plan) for name, test in tests.items()}
    stores = {name: plan.put(resident.whole(test.data)) for name, test in tests.items()}
    on_device = jax.jit(client_parts)

    def one(state: State, name: str, test: Test) -> Evaluation:
        parts = (on_device if isinstance(state.clients.rounds, jax.Array) else client_parts)(state.clients, test.owner)
        judged = program[test.data.read](state.server.model, parts, stores[name], test.owner, *dealt[name])
        metrics, examples = process_allgather(judged, tiled=True)  # NumPy, in every process
        count = int(np.sum(test.data.sizes))
        return Evaluation(metrics, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], examples))

    return lambda state: {name: one(state, name, test) for name, test in tests.items()}


def showing_task(task: Task) -> Task:
    """`task` of which nothing is measured, and all that it shows is kept; of volumes the middle slice."""

    def shown(params: Params, carry: Carry, batch: Batch) -> dict[str, jax.Array]:
        there: dict[str, jax.Array] = {name: middle_slices(batch[name]) for name in ("image", "mask") if name in batch}
        return {**there, **task.kept(task.predict(params, carry, batch), batch)}

    return task._replace(predict=task.shown or shown, evaluate=lambda *_: (), kept=lambda shown, _: shown)


def few_examples(test: Test, count: int = 24) -> Test:
    """At most `count` examples spread over a test set, each a client of its own."""
    client, index = resident.positions(test.data.sizes)
    chosen = np.linspace(0, len(client) - 1, min(count, len(client))).astype(int)
    client, index = client[chosen], index[chosen]

    def read(store: PyTree, one: jax.Array, indices: jax.Array) -> Batch:
        which = jnp.broadcast_to(jnp.asarray(index)[one], indices.shape)
        return test.data.read(store, jnp.asarray(client)[one], which)

    data = ClientData(np.ones(len(chosen), np.int32), resident.whole(test.data), read)
    return Test(data, test.owner[client])


def chunk_examples(sizes: np.ndarray, plan: Plan, room: int = 0) -> tuple[np.ndarray, ...]:
    """Client, index and weight of each example in chunks [devices * chunks, batch], padded with weight 0.

    Shapes are those of `room` examples where there are fewer.
    """
    client, index = resident.positions(sizes)
    room = max(room, len(client))
    batch = max(1, min(plan.evaluate_batch, -(-room // plan.devices)))
    padding = room - len(client) + -room % (plan.devices * batch)
    examples = (client, index, np.ones(len(client), np.float32))
    return tuple(np.pad(each, (0, padding)).reshape(-1, batch) for each in examples)


def evaluate_on_devices(task: Task, plan: Plan, read: Callable[..., Any]) -> Callable[..., Any]:
    """(shared model, clients' own parts [M, ...], store, owners [M], chunks of examples) -> metrics by client [M, ...],
    and by example in chunks."""

    def judge(shared: PyTree, parts: PyTree, store: PyTree, owner: jax.Array, *chunks: jax.Array) -> Any:
        if task.newcomer is not None:
            parts = jax.vmap(partial(newcomer_part, task, shared))(parts, owner)

        def one(client: jax.Array, index: jax.Array, weight: jax.Array) -> tuple[Metrics, PyTree]:
            params, carry = trees.join(shared, trees.take(parts, client))
            batch = {**read(store, client, index[None]), "weight": weight[None]}
            examples = task.kept(task.predict(params, carry, batch), batch)
            return task.evaluate(params, carry, batch), jax.tree.map(lambda x: x[0], examples)

        return sum_by_client(one, owner.size, chunks)

    if plan.devices == 1:
        return judge

    def share(*given: Any) -> Any:
        total, examples = judge(*given)
        return jax.lax.psum(total, AXIS), examples

    whole, mine = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    specs = (whole, whole, whole, whole, mine, mine, mine)
    return jax.shard_map(share, mesh=plan.mesh(), in_specs=specs, out_specs=(whole, mine), check_vma=False)


def newcomer_part(task: Task, shared: PyTree, part: PyTree, owner: jax.Array) -> PyTree:
    """A client's own part of the model; of a site that took no part, with `owner` -1, the task's choice."""
    assert task.newcomer is not None
    model = trees.join(shared, part)
    return trees.select(owner < 0, trees.split(task.shared(model), task.newcomer(model))[1], part)


def sum_by_client(one: Callable[..., Any], clients: int, chunks: tuple[jax.Array, ...]) -> Any:
    """`one` mapped over this device's examples, a chunk at a time: metrics summed by client, the rest in order."""
    one = jax.jit(one, inline=True)  # traced once, for its shapes and for the loop
    shapes = jax.eval_shape(one, *(each[0, 0] for each in chunks))[0]
    zero = trees.zeros_like(jax.tree.map(lambda x: jax.ShapeDtypeStruct((clients, *x.shape), x.dtype), shapes))

    def body(total: Metrics, chunk: tuple[jax.Array, ...]) -> tuple[Metrics, PyTree]:
        metrics, examples = jax.vmap(one)(*chunk)
        return jax.tree.map(lambda t, m: t.at[chunk[0]].add(m), total, metrics), examples

    return jax.lax.scan(body, zero, chunks)


def client_parts(clients: ClientRow, owner: np.ndarray) -> PyTree:
    """The part of the model that stays with each `owner` int32 [M]; for -1 the mean over clients that have trained.

    Clients held on the host are read there, and only what comes out, [M, ...], goes to a device.
    """
    trained = (clients.rounds > 0).astype(np.float32)
    count = jnp.asarray(trained.sum())

    def pick(leaf: jax.Array) -> jax.Array:
        total = jnp.asarray(trained @ leaf.reshape(len(leaf), -1).astype(np.float32)).reshape(leaf.shape[1:])
        mean = jnp.where(count > 0, total / jnp.maximum(count, 1.0), leaf[0].astype(jnp.float32)).astype(leaf.dtype)
        nobody = jnp.asarray(owner < 0).reshape(-1, *(1 for _ in leaf.shape[1:]))
        return jnp.where(nobody, mean[None], leaf[owner])

    return jax.tree.map(pick, clients.model)
