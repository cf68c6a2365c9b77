"""Local training of one client: steps on batches of its examples, with one optimiser for each phase of the task."""

import functools
from collections.abc import Callable
from functools import partial
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
BatchLoss = Callable[[Params, Batch, jax.Array], Loss]  # (params, batch, key) -> loss, (carry, metrics)
# (loss, moving params, batch, key) -> (gradient, (carry, metrics))
Gradient = Callable[[BatchLoss, Params, Batch, jax.Array], tuple[Params, tuple[Carry, Metrics]]]


class Observed(NamedTuple):
    """The metrics of a step, and what an audit has seen of it; both are summed over steps and clients."""

    metrics: Metrics
    seen: PyTree


def batch_gradient(loss: BatchLoss, params: Params, batch: Batch, key: jax.Array) -> Any:
    """Returns the gradient of the loss of the whole batch, and (carry, metrics)."""
    return jax.grad(loss, has_aux=True)(params, batch, key)


class Local(NamedTuple):
    """Settings of a client's local training."""

    epochs: int
    batch: int  # examples in a step, at most
    optimizer: Callable[[jax.Array], optax.GradientTransformation]  # learning rate -> optimiser
    schedule: Callable[[jax.Array], jax.Array]  # round int32 [] -> learning rate float32 []
    gradient: Gradient = batch_gradient
    batches: Callable[[int, int], Batches] = shuffled_epochs  # (epochs, batch) -> batches of local steps
    max_steps: int | None = None  # of a round; a client with more batches takes the first of them


class ClientStart(NamedTuple):
    """What a client starts a round from and may read while it trains."""

    model: Model  # shared leaves from the server, the other leaves its own
    server: ServerState  # the broadcast
    state: ClientState


class LocalStepResult(NamedTuple):
    """The result of one local step."""

    model: Model
    optimizers: tuple[optax.OptState, ...]  # one for each phase
    accumulated: PyTree  # this step's term of the sum that the algorithm accumulates
    metrics: Metrics | Observed  # of the last phase


def step_counts(local: Local, sizes: Array) -> Array:
    """Returns the local steps, int32 [...], in a round of clients with `sizes` int32 [...] examples."""
    count = local.batches(local.epochs, local.batch).steps(sizes)
    return count if local.max_steps is None else count.clip(0, local.max_steps)


def read_batch(data: ClientData, local: Local, store: PyTree, client: jax.Array, size: jax.Array, round: jax.Array,
               step: jax.Array, key: jax.Array) -> Batch:  # fmt: skip
    """Returns the batch [B, ...] of one local step. Its field "weight" [B] is 1 for an example and 0 for padding."""
    draw = local.batches(local.epochs, local.batch).draw
    shuffles, read = keys.purpose(key, keys.Purpose.SHUFFLE), partial(data.read, store, client)
    examples, fields = draw(shuffles, step, client, size, read)
    examples = data.pick(examples, client, size)
    return {**data.shift(data.read(store, client, examples), client, examples, round), **fields}


def init_optimizers(task: Task, local: Local, model: Model, rate: jax.Array) -> tuple[optax.OptState, ...]:
    """Returns a new optimiser state for each phase, at learning rate `rate` []."""
    moving = (trees.split(phase.trainable(model.params), model.params)[0] for phase in task.phases)
    return tuple(local.optimizer(rate).init(params) for params in moving)


def nothing_accumulated(algorithm: Algorithm, params: PyTree) -> PyTree:
    """Returns zeros: what the algorithm has accumulated before the first local step."""
    return trees.zeros_like(jax.eval_shape(algorithm.accumulate, params, jnp.float32(0), jnp.float32(0)))


def proximal_gradient(strength: jax.Array | float, params: PyTree, towards: PyTree) -> PyTree:
    """Returns the gradient of strength / 2 * |params - towards|^2; zero at leaves that `towards` lacks."""
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
) -> LocalStepResult:
    """Returns the result of one local step, in which each phase in turn moves its parameters.

    `states` are the optimiser states, `rate` float32 [] is the learning rate, and `progress` float32 [] the share of
    the client's local steps already done.
    """
    optimizer, frozen = local.optimizer(rate), algorithm.frozen(model.params, progress)
    new_states, gradients = [], []
    for number, (phase, state) in enumerate(zip(task.phases, states)):
        phase_key = jax.random.fold_in(key, number)
        mask = phase.trainable(model.params)
        moving, fixed = trees.split(mask, model.params)

        def loss(moving: Params, batch: Batch, key: jax.Array, phase=phase, fixed=fixed, carry=model.carry) -> Loss:
            return phase.loss(trees.join(moving, fixed), carry, batch, key)

        grads, (carry, metrics) = local.gradient(loss, moving, batch, phase_key)
        if (penalty := phase.penalty) is not None:
            penalty_grads = jax.grad(lambda moving, fixed=fixed: penalty(trees.join(moving, fixed)))(moving)
            grads = trees.add(grads, penalty_grads)
        gradients.append(trees.join(grads, trees.zeros_like(fixed)))
        full = algorithm.gradient(gradients[-1], model.params, start.model.params, start.server, start.state)
        full = zero_where_frozen(frozen, full)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            updates, state = optimizer.update(trees.split(mask, full)[0], state, moving)
        updates = zero_where_frozen(trees.split(mask, frozen)[0], updates)
        model = Model(trees.join(optax.apply_updates(moving, updates), fixed), carry)
        new_states.append(state)
    accumulated = algorithm.accumulate(functools.reduce(trees.add, gradients), batch["weight"].sum(), progress)
    return LocalStepResult(model, tuple(new_states), accumulated, metrics)


def zero_where_frozen(frozen: PyTree, changes: PyTree) -> PyTree:
    """Returns `changes` with zeros at the leaves that are frozen. Each leaf of `frozen` is False or a bool []."""
    return jax.tree.map(lambda stop, x: x if stop is False else jnp.where(stop, jnp.zeros_like(x), x), frozen, changes)
