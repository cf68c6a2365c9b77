"""Evaluates a state on test sets, client by client."""

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
    """Results of a state on one test set of M clients and n examples."""

    metrics: Metrics  # [M, ...]
    kept: dict[str, np.ndarray]  # fields [n, ...], what the task keeps of each example
    nonfinite: np.ndarray  # int32 [M], examples whose prediction is not finite


def build(
    task: Task, plan: Plan, tests: Mapping[str, Test], cache: ProgramCache | None = None, label: str = "judge"
) -> Callable[[State], dict[str, Evaluation]]:
    """Returns a compiled function from a state to its results on each test set.

    If clients keep a part of the model, a test client uses the part of its owner. A site that took no part uses the
    mean over the clients that have trained, or what `task.unseen_client_model` makes of it. Every device holds
    all test examples. Traced programs are kept in `cache` under `label`.
    """
    readers = list(dict.fromkeys(test.data.read for test in tests.values()))
    shardings = Shardings(plan.replicated_sharding(), (plan.replicated_sharding(), plan.sharded_over_devices()))
    # Test sets with the same `read` function share one program.
    programs_by_read = {
        read: programs.compile_when_called(evaluate_on_devices(task, plan, read), shardings, cache, f"{label} {number}")
        for number, read in enumerate(readers)
    }
    chunks = {name: chunk_examples(test.data.sizes, plan) for name, test in tests.items()}
    stores = {name: plan.replicate(resident.whole(test.data)) for name, test in tests.items()}
    on_device = jax.jit(client_parts)

    def evaluate_one(state: State, name: str, test: Test) -> Evaluation:
        parts = (on_device if isinstance(state.clients.rounds, jax.Array) else client_parts)(state.clients, test.owner)
        program = programs_by_read[test.data.read]
        results = program(state.server.model, parts, stores[name], test.owner, *chunks[name])
        (metrics, nonfinite), examples = process_allgather(results, tiled=True)  # NumPy, in every process
        count = int(np.sum(test.data.sizes))
        kept = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], examples)
        return Evaluation(metrics, kept, nonfinite)

    return lambda state: {name: evaluate_one(state, name, test) for name, test in tests.items()}


def compile_for_shapes(task: Task, plan: Plan, tests: Mapping[str, Test], state: State) -> dict[str, Any]:
    """Returns the compiled program of each test set, for a state of shapes, without placing any examples."""
    shardings = Shardings(plan.replicated_sharding(), (plan.replicated_sharding(), plan.sharded_over_devices()))

    def compiled(test: Test) -> Any:
        parts = jax.eval_shape(partial(client_parts, owner=test.owner), state.clients)
        store = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), resident.whole(test.data))
        args = (state.server.model, parts, store, test.owner, *chunk_examples(test.data.sizes, plan))
        return programs.compile_program(evaluate_on_devices(task, plan, test.data.read), shardings, args)

    return {name: compiled(test) for name, test in tests.items()}


def failure(results: Mapping[str, Evaluation]) -> str:
    """Returns what shows that a model has failed on a test set, or an empty string.

    It looks at predictions, which are finite whatever the examples are. Figures are no sign of failure: precision of a
    class that does not occur, the score of a client without examples, the Frechet distance of one image and the
    correlation with a constant image are undefined, and the PSNR of equal images is infinite.
    """
    for name, one in results.items():
        if bad := int(np.sum(one.nonfinite)):
            return f"the evaluation is not finite (predictions for {bad} examples of {name!r})"
    return ""


def showing_task(task: Task) -> Task:
    """Returns `task` for showing predictions: without metrics, and with all that it shows kept of each example.

    Of volumes only the middle slice is kept.
    """

    def shown(params: Params, carry: Carry, batch: Batch) -> dict[str, jax.Array]:
        fields: dict[str, jax.Array] = {name: middle_slices(batch[name]) for name in ("image", "mask") if name in batch}
        return {**fields, **task.kept(task.predict(params, carry, batch), batch)}

    return task._replace(predict=task.shown or shown, evaluate=lambda *_: (), kept=lambda shown, _: shown)


def few_examples(test: Test, count: int = 24) -> Test:
    """Returns at most `count` examples spread evenly over a test set, each as a client of its own."""
    client, index = resident.positions(test.data.sizes)
    chosen = np.linspace(0, len(client) - 1, min(count, len(client))).astype(int)
    client, index = client[chosen], index[chosen]

    def read(store: PyTree, number: jax.Array, indices: jax.Array) -> Batch:
        source_indices = jnp.broadcast_to(jnp.asarray(index)[number], indices.shape)
        return test.data.read(store, jnp.asarray(client)[number], source_indices)

    data = ClientData(np.ones(len(chosen), np.int32), resident.whole(test.data), read)
    return Test(data, test.owner[client])


def chunk_examples(sizes: np.ndarray, plan: Plan, capacity: int = 0) -> tuple[np.ndarray, ...]:
    """Returns client, index and weight of each example in chunks [devices * chunks, batch], padded with weight 0.

    The shapes are those of at least `capacity` examples, so that smaller test sets can share a program.
    """
    client, index = resident.positions(sizes)
    capacity = max(capacity, len(client))
    batch = max(1, min(plan.evaluate_batch, -(-capacity // plan.devices)))
    padding = capacity - len(client) + -capacity % (plan.devices * batch)
    examples = (client, index, np.ones(len(client), np.float32))
    return tuple(np.pad(column, (0, padding)).reshape(-1, batch) for column in examples)


def evaluate_on_devices(task: Task, plan: Plan, read: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that evaluates a model on all devices.

    Its arguments are the shared model, the clients' own parts [M, ...], the store, the owners int32 [M] and the three
    arrays of `chunk_examples`. It returns, by client, metrics [M, ...] and the number of examples whose prediction is
    not finite, int32 [M]; and kept fields by example in chunks.
    """

    def on_one_device(shared: PyTree, parts: PyTree, store: PyTree, owner: jax.Array, *chunks: jax.Array) -> Any:
        if task.unseen_client_model is not None:
            parts = jax.vmap(partial(personal_part, task, shared))(parts, owner)

        def evaluate_example(
            client: jax.Array, index: jax.Array, weight: jax.Array
        ) -> tuple[tuple[Metrics, jax.Array], PyTree]:
            params, carry = trees.join(shared, trees.take(parts, client))
            batch = {**read(store, client, index[None]), "weight": weight[None]}
            prediction = task.predict(params, carry, batch)
            nonfinite = (weight > 0) & ~trees.is_finite(prediction)
            kept = jax.tree.map(lambda x: x[0], task.kept(prediction, batch))
            return (task.evaluate(params, carry, batch), nonfinite.astype(jnp.int32)), kept

        return sum_by_client(evaluate_example, owner.size, chunks)

    if plan.devices == 1:
        return on_one_device

    def on_each_device(*args: Any) -> Any:
        total, examples = on_one_device(*args)
        return jax.lax.psum(total, AXIS), examples

    replicated, divided = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    specs = (replicated, replicated, replicated, replicated, divided, divided, divided)
    return jax.shard_map(
        on_each_device, mesh=plan.mesh(), in_specs=specs, out_specs=(replicated, divided), check_vma=False
    )


def personal_part(task: Task, shared: PyTree, part: PyTree, owner: jax.Array) -> PyTree:
    """Returns a client's own `part` of the model, or what the task gives a site that took no part (`owner` -1)."""
    assert task.unseen_client_model is not None
    model = trees.join(shared, part)
    return trees.select(owner < 0, trees.split(task.shared(model), task.unseen_client_model(model))[1], part)


def sum_by_client(evaluate_example: Callable[..., Any], clients: int, chunks: tuple[jax.Array, ...]) -> Any:
    """Returns sums over this device's examples by client [clients, ...], and their kept fields in chunks.

    `evaluate_example` returns what is summed and what is kept. Examples are evaluated a chunk at a time.
    """
    evaluate_example = jax.jit(evaluate_example, inline=True)  # traced once, for its shapes and for the loop
    shapes = jax.eval_shape(evaluate_example, *(column[0, 0] for column in chunks))[0]
    zero = trees.zeros_like(jax.tree.map(lambda x: jax.ShapeDtypeStruct((clients, *x.shape), x.dtype), shapes))

    def body(total: PyTree, chunk: tuple[jax.Array, ...]) -> tuple[PyTree, PyTree]:
        summed, examples = jax.vmap(evaluate_example)(*chunk)
        return jax.tree.map(lambda t, m: t.at[chunk[0]].add(m), total, summed), examples

    return jax.lax.scan(body, zero, chunks)


def client_parts(clients: ClientRow, owner: np.ndarray) -> PyTree:
    """Returns the part of the model that stays with each `owner` int32 [M], with a leading axis [M].

    For `owner` -1 it is the mean over the clients that have trained, or the first client's, which is as all began, if
    none has. Client state held on the host is read there, and only the result goes to a device.
    """
    trained = (clients.rounds > 0).astype(np.float32)
    count = jnp.asarray(trained.sum())

    def pick(leaf: jax.Array) -> jax.Array:
        total = jnp.asarray(trained @ leaf.reshape(len(leaf), -1).astype(np.float32)).reshape(leaf.shape[1:])
        mean = jnp.where(count > 0, total / jnp.maximum(count, 1.0), leaf[0].astype(jnp.float32)).astype(leaf.dtype)
        no_owner = jnp.asarray(owner < 0).reshape(-1, *(1 for _ in leaf.shape[1:]))
        return jnp.where(no_owner, mean[None], leaf[owner])

    return jax.tree.map(pick, clients.model)
