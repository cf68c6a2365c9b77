"""What one client does: epochs over its own examples, one optimiser for each phase of the task."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_mri.core import keys, trees
from fedjax_mri.data.contract import Batch, ClientData
from fedjax_mri.fed.algorithm import Algorithm, ClientState, ServerState
from fedjax_mri.fed.client.shuffle import shuffled
from fedjax_mri.tasks.task import Metrics, Model, Task

PyTree = Any
Array = TypeVar("Array", jax.Array, np.ndarray)


class Local(NamedTuple):
    """How a client trains."""

    epochs: int
    batch: int  # examples a step; the last batch of an epoch may hold fewer
    optimizer: Callable[[jax.Array], optax.GradientTransformation]  # learning rate ->
    schedule: Callable[[jax.Array], jax.Array]  # round int32 [] -> learning rate float32 []


class Start(NamedTuple):
    """What a client starts from and keeps in sight while it trains."""

    model: Model  # shared leaves from the server, the rest its own
    server: ServerState
    state: ClientState


def steps(local: Local, sizes: Array) -> Array:
    """Local steps of clients with `sizes` int32 [...] examples."""
    return local.epochs * ((sizes + local.batch - 1) // local.batch)


def read(data: ClientData, local: Local, store: PyTree, client: jax.Array, size: jax.Array, round: jax.Array,
         step: jax.Array, key: jax.Array) -> Batch:  # fmt: skip
    """The batch [B, ...] of one local step: each epoch visits each of the client's examples once, in its own order."""
    a_epoch = jnp.maximum((size + local.batch - 1) // local.batch, 1)
    positions = (step % a_epoch) * local.batch + jnp.arange(local.batch, dtype=jnp.int32)
    order = jax.random.fold_in(keys.purpose(key, keys.Purpose.SHUFFLE), step // a_epoch)
    examples = shuffled(order, positions, size)
    batch = data.shift(data.read(store, client, examples), client, examples, round)
    return {**batch, "weight": (positions < size).astype(jnp.float32)}


def init_optimizers(task: Task, local: Local, model: Model, rate: jax.Array) -> tuple[optax.OptState, ...]:
    """A fresh optimiser state for each phase."""
    moving = (trees.split(phase.moves(model.params), model.params)[0] for phase in task.phases)
    return tuple(local.optimizer(rate).init(params) for params in moving)


def nothing_noted(algorithm: Algorithm, params: PyTree) -> PyTree:
    """The sum of notes before the first step."""
    return trees.zeros_like(jax.eval_shape(algorithm.note, params, jnp.float32(0), jnp.float32(0)))


def pull(strength: jax.Array | float, params: PyTree, towards: PyTree) -> PyTree:
    """The gradient of strength / 2 * |params - towards|^2; zero at leaves that `towards` lacks, a client's own."""
    return jax.tree.map(lambda p, t: strength * (p - t), params, trees.join(towards, params))


def step(
    task: Task,
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    start: Start,
    model: Model,
    states: tuple[optax.OptState, ...],
    batch: Batch,
    progress: jax.Array,
    key: jax.Array,
) -> tuple[Model, tuple[optax.OptState, ...], PyTree, Metrics]:
    """One local step: each phase in turn moves its parameters; the last phase's metrics are the step's.

    Gives the model, the optimisers, what the algorithm notes of the step, and the metrics.
    """
    after, held, found = [], algorithm.hold(model.params, progress), []
    for number, (phase, state) in enumerate(zip(task.phases, states)):
        mask = phase.moves(model.params)
        moving, still = trees.split(mask, model.params)

        def loss(moving: PyTree, phase=phase, still=still, carry=model.carry, number=number) -> Any:
            return phase.loss(trees.join(moving, still), carry, batch, jax.random.fold_in(key, number))

        grads, (carry, metrics) = jax.grad(loss, has_aux=True)(moving)
        found.append(trees.join(grads, trees.zeros_like(still)))
        full = algorithm.gradient(found[-1], model.params, start.model.params, start.server, start.state)
        full = still_where(held, full)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            updates, state = optimizer.update(trees.split(mask, full)[0], state, moving)
        updates = still_where(trees.split(mask, held)[0], updates)
        model = Model(trees.join(optax.apply_updates(moving, updates), still), carry)
        after.append(state)
    noted = algorithm.note(functools.reduce(trees.add, found), batch["weight"].sum(), progress)
    return model, tuple(after), noted, metrics


def still_where(held: PyTree, changes: PyTree) -> PyTree:
    """Changes that are zero at the leaves that are `held`: False, or a bool []."""
    return jax.tree.map(lambda hold, x: x if hold is False else jnp.where(hold, jnp.zeros_like(x), x), held, changes)
