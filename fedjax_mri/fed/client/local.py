"""What one client does: local steps on batches of its own examples, one optimiser for each phase of the task."""

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
from fedjax_mri.fed.client.batches import Batches, shuffled_epochs
from fedjax_mri.tasks.task import Carry, Loss, Metrics, Model, Params, Task

PyTree = Any
Array = TypeVar("Array", jax.Array, np.ndarray)
BatchLoss = Callable[[Params, Batch], Loss]  # the loss of a phase on a batch, and what it leaves
# (loss, moving params, batch, key) -> (gradient, (carry, metrics))
Gradient = Callable[[BatchLoss, Params, Batch, jax.Array], tuple[Params, tuple[Carry, Metrics]]]


def batch_gradient(loss: BatchLoss, params: Params, batch: Batch, key: jax.Array) -> Any:
    """The gradient of the loss of the whole batch."""
    return jax.grad(loss, has_aux=True)(params, batch)


class Local(NamedTuple):
    """How a client trains."""

    epochs: int
    batch: int  # examples in a step, at most
    optimizer: Callable[[jax.Array], optax.GradientTransformation]  # learning rate -> optimiser
    schedule: Callable[[jax.Array], jax.Array]  # round int32 [] -> learning rate float32 []
    gradient: Gradient = batch_gradient
    batches: Callable[[int, int], Batches] = shuffled_epochs  # (epochs, batch) -> how examples are dealt out to steps


class ClientStart(NamedTuple):
    """What a client starts from and keeps in sight while it trains."""

    model: Model  # shared leaves from the server, the rest its own
    server: ServerState
    state: ClientState


class OptimizerStep(NamedTuple):
    """What a local step changes and leaves."""

    model: Model
    optimizers: tuple[optax.OptState, ...]  # one for each phase
    accumulated: PyTree  # what the algorithm accumulates of this step
    metrics: Metrics  # of the last phase


def step_counts(local: Local, sizes: Array) -> Array:
    """Local steps in a round of clients with `sizes` int32 [...] examples."""
    return local.batches(local.epochs, local.batch).steps(sizes)


def read_batch(data: ClientData, local: Local, store: PyTree, client: jax.Array, size: jax.Array, round: jax.Array,
               step: jax.Array, key: jax.Array) -> Batch:  # fmt: skip
    """The batch [B, ...] of one local step, with its weight [B]: 1 for an example that counts, 0 for padding."""
    draw = local.batches(local.epochs, local.batch).draw
    examples, weight = draw(keys.purpose(key, keys.Purpose.SHUFFLE), step, size)
    batch = data.shift(data.read(store, client, examples), client, examples, round)
    return {**batch, "weight": weight}


def init_optimizers(task: Task, local: Local, model: Model, rate: jax.Array) -> tuple[optax.OptState, ...]:
    """A fresh optimiser state for each phase."""
    moving = (trees.split(phase.moves(model.params), model.params)[0] for phase in task.phases)
    return tuple(local.optimizer(rate).init(params) for params in moving)


def nothing_accumulated(algorithm: Algorithm, params: PyTree) -> PyTree:
    """The sum over local steps before the first step."""
    return trees.zeros_like(jax.eval_shape(algorithm.accumulate, params, jnp.float32(0), jnp.float32(0)))


def proximal_gradient(strength: jax.Array | float, params: PyTree, towards: PyTree) -> PyTree:
    """The gradient of strength / 2 * |params - towards|^2; zero at leaves that `towards` lacks, a client's own."""
    return jax.tree.map(lambda p, t: strength * (p - t), params, trees.join(towards, params))


def local_step(
    task: Task,
    algorithm: Algorithm,
    local: Local,
    start: ClientStart,
    model: Model,
    states: tuple[optax.OptState, ...],
    rate: jax.Array,
    batch: Batch,
    progress: jax.Array,
    key: jax.Array,
) -> OptimizerStep:
    """One local step: each phase in turn moves its parameters, at learning `rate` [].

    `progress` is the share of the client's local steps that is done, float32 [].
    """
    optimizer, frozen = local.optimizer(rate), algorithm.frozen(model.params, progress)
    after, found = [], []
    for number, (phase, state) in enumerate(zip(task.phases, states)):
        own = jax.random.fold_in(key, number)
        mask = phase.moves(model.params)
        moving, still = trees.split(mask, model.params)

        def loss(moving: Params, batch: Batch, phase=phase, still=still, carry=model.carry, own=own) -> Loss:
            return phase.loss(trees.join(moving, still), carry, batch, own)

        grads, (carry, metrics) = local.gradient(loss, moving, batch, own)
        if (penalty := phase.penalty) is not None:
            of_penalty = jax.grad(lambda moving, still=still: penalty(trees.join(moving, still)))(moving)
            grads = trees.add(grads, of_penalty)
        found.append(trees.join(grads, trees.zeros_like(still)))
        full = algorithm.gradient(found[-1], model.params, start.model.params, start.server, start.state)
        full = zero_where_frozen(frozen, full)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            updates, state = optimizer.update(trees.split(mask, full)[0], state, moving)
        updates = zero_where_frozen(trees.split(mask, frozen)[0], updates)
        model = Model(trees.join(optax.apply_updates(moving, updates), still), carry)
        after.append(state)
    accumulated = algorithm.accumulate(functools.reduce(trees.add, found), batch["weight"].sum(), progress)
    return OptimizerStep(model, tuple(after), accumulated, metrics)


def zero_where_frozen(frozen: PyTree, changes: PyTree) -> PyTree:
    """Changes that are zero at the leaves that are `frozen`: False, or a bool []."""
    return jax.tree.map(lambda stop, x: x if stop is False else jnp.where(stop, jnp.zeros_like(x), x), frozen, changes)
