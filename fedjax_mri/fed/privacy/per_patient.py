"""A local step of DP-SGD (Abadi et al. 2016, arXiv 1607.00133) whose unit is the patient.

Each step draws every patient by a coin, clips the gradient of each patient who came, sums, adds noise once and divides
by the mean number of patients who come. `poisson_patients` draws; `private_gradient` does the rest.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import keys, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import PATIENT, Batch
from fedjax_mri.fed.client.batches import Batches, Read
from fedjax_mri.fed.client.local import BatchLoss, Gradient, Observed
from fedjax_mri.fed.client.shuffle import shuffled
from fedjax_mri.fed.privacy.mechanism import normal_like
from fedjax_mri.fed.uplink.contract import SimulationParts
from fedjax_mri.tasks.task import Params

EXPECTED = "expected"  # a field of batches: the mean number of patients who come, float32 [B], all the same
RATE, CLIENT = "rate", "client"  # fields of batches that are watched: how likely each patient comes, and whose they are
INDEX_BITS = 31  # halvings that find any int32
# (sum of clipped gradients, the same with noise, batch, key) -> what an audit sees of a step
Watch = Callable[[Params, Params, Batch, jax.Array], Any]


class Sums(NamedTuple):
    """Sums over the patients of a step."""

    gradient: Params  # of clipped gradients
    metrics: Any


def places_of(batch: int) -> int:
    """Returns for how many patients a step has room, if `batch` of them come on average: six standard deviations."""
    return batch + math.ceil(6 * math.sqrt(batch)) + 6


def poisson_patients(
    most: int, by_patient: bool, views: int, microbatch: int, watched: bool = False
) -> Callable[[int, int], Batches]:
    """Returns what makes batches of (epochs, batch): each patient is drawn by itself, `batch` of them on average.

    most: patients of a client, at most. by_patient: whether images of a patient belong together; otherwise each image
    counts as one patient. views: random images of a patient in a step; if there are fewer, some come again.
    microbatch: the number of places is a multiple of it. watched: whether batches say what a `Watch` needs. An epoch
    has as many steps as read each example once on average.
    """

    def of(epochs: int, batch: int) -> Batches:
        room = min(places_of(batch), max(most, 1))
        places = -(-room // microbatch) * microbatch

        def draw(
            key: jax.Array, step: jax.Array, client: jax.Array, size: jax.Array, read: Read
        ) -> tuple[jax.Array, Batch]:
            coins, order = jax.random.split(jax.random.fold_in(key, step))
            numbered = by_patient and PATIENT in jax.eval_shape(read, jax.ShapeDtypeStruct((1,), jnp.int32))
            patients = read(jnp.maximum(size - 1, 0)[None])[PATIENT][0] + 1 if numbered else size
            count = patients.astype(jnp.float32)
            rate = jnp.minimum(batch / jnp.maximum(count, 1.0), 1.0)
            chosen, present = flip_coins(coins, rate, patients, max(most, 1), room)
            chosen, present = (jnp.pad(each, (0, places - room)) for each in (chosen, present))
            examples = some_examples(order, chosen, views, size, read) if numbered else jnp.repeat(chosen, views)
            fields = {EXPECTED: rate * count} | ({RATE: rate, CLIENT: client} if watched else {})
            each = {name: jnp.full(examples.shape, value) for name, value in fields.items()}
            return examples, {"weight": jnp.repeat(present, views), **each}

        return Batches(lambda sizes: epochs * ((sizes + batch * views - 1) // (batch * views)), draw)

    return of


def flip_coins(
    key: jax.Array, rate: jax.Array, patients: jax.Array, most: int, room: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the patients int32 [room] who come, each with probability `rate`, and whether each does, float32 [room].

    Those who come are first. If more than `room` would come, a random part of them does.
    """
    coins = jax.random.uniform(key, (most,))
    coins = jnp.where(jnp.arange(most) < patients, coins, 2.0)
    lowest, chosen = jax.lax.top_k(-coins, room)
    return chosen.astype(jnp.int32), (-lowest < rate).astype(jnp.float32)


def some_examples(key: jax.Array, patients: jax.Array, views: int, size: jax.Array, read: Read) -> jax.Array:
    """Returns examples int32 [places * views] of `patients` int32 [places], random ones of each in turn."""
    start, stop = first_examples(patients, size, read), first_examples(patients + 1, size, read)
    owned = jnp.maximum(stop - start, 1)
    turns = jnp.arange(views, dtype=jnp.int32)[None] % owned[:, None]
    return (start[:, None] + jax.vmap(shuffled)(keys.fold_in_each(key, patients), turns, owned)).ravel()


def first_examples(patients: jax.Array, size: jax.Array, read: Read) -> jax.Array:
    """Returns the first example int32 [n] of each of `patients` int32 [n]; `size` for one past the last. By halving."""

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        after = (low < high) & (read(middle)[PATIENT] < patients)
        return jnp.where(after, middle + 1, low), jnp.where(after, high, middle)

    bounds = jnp.zeros_like(patients), jnp.broadcast_to(size, patients.shape).astype(jnp.int32)
    return jax.lax.fori_loop(0, INDEX_BITS, halve, bounds)[0]


def private_gradient(clip: float, noise: float, views: int, microbatch: int, watch: Watch | None = None) -> Gradient:
    """Returns the gradient of a step: (sum of the patients' clipped gradients + noise) over the patients expected.

    clip: bound on the norm of a patient's gradient, which is that of the mean loss of the views. noise: noise
    multiplier. microbatch: patients whose gradients are held at a time; it changes rounding alone. watch: what an audit
    sees of a step.
    """

    def gradient(loss: BatchLoss, params: Params, batch: Batch, key: jax.Array) -> Any:
        expected = batch[EXPECTED][0]
        patients = jax.tree.map(lambda x: x.reshape(-1, views, *x.shape[1:]), batch)
        sums, carry = sum_over_patients(partial(one_patient, clip, loss, params), patients, microbatch, key)
        drawn = normal_like(jax.random.fold_in(key, 1), params)
        noised = jax.tree.map(lambda total, n: total + clip * noise * n, sums.gradient, drawn)
        metrics = sums.metrics
        if watch is not None:
            metrics = Observed(metrics, watch(sums.gradient, noised, batch, jax.random.fold_in(key, 2)))
        return jax.tree.map(lambda total: total / expected, noised), (carry, metrics)

    return gradient


def one_patient(clip: float, loss: BatchLoss, params: Params, patient: Batch, key: jax.Array) -> tuple[Sums, Any]:
    """Returns the clipped gradient of one patient's views, with the metrics, and the carry. Not finite: zeros."""
    views = {**patient, "weight": jnp.ones_like(patient["weight"])}
    grads, (carry, metrics) = jax.grad(loss, has_aux=True)(params, views, key)
    return Sums(clipped(grads, clip), metrics), carry


def clipped(grads: Params, clip: float) -> Params:
    """Returns the gradient of a patient with a norm of `clip` at most; zeros where it is not finite."""
    norm = trees.norm(grads)
    scaled = trees.scale(clip / jnp.maximum(norm, clip), grads)
    return trees.select(jnp.isfinite(norm), scaled, trees.zeros_like(scaled))


def sum_over_patients(
    one: Callable[[Batch, jax.Array], tuple[Sums, Any]], patients: Batch, microbatch: int, key: jax.Array
) -> tuple[Sums, Any]:
    """Returns the sums of `one` over the patients [places, views, ...] who came, and the carry, which has no leaves.

    Those who came are first, so that the loop ends with the last of them.
    """
    present = patients["weight"][:, 0]
    each = keys.fold_in_each(jax.random.fold_in(key, 0), jnp.arange(present.size))
    shapes, carry = jax.eval_shape(one, *jax.tree.map(lambda x: x[0], (patients, each)))

    def add(number: jax.Array, sums: Sums) -> Sums:
        def part(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, number * microbatch, microbatch)

        found, _ = jax.vmap(one)(jax.tree.map(part, patients), part(each))
        return jax.tree.map(lambda total, x: total + jnp.tensordot(part(present), x, 1), sums, found)

    batches = jnp.ceil(present.sum() / microbatch).astype(jnp.int32)
    return jax.lax.fori_loop(0, batches, add, trees.zeros_like(shapes)), trees.zeros_like(carry)


def refuse_what_mixes_patients(parts: SimulationParts) -> None:
    """Raises UserError if something leaves a step, or stays at a client, that no patient's clip bounds."""
    model = jax.eval_shape(parts.task.init, jax.random.key(0))
    if jax.tree.leaves(model.carry):
        raise UserError(
            "privacy: the task keeps statistics or a pool of images of several patients, which no clip bounds; choose "
            'a network with norm="group", or a task without such a state'
        )
    if len(parts.task.phases) > 1:
        raise UserError(
            f"privacy: the task takes {len(parts.task.phases)} gradients in a step, and noise is accounted for one; "
            "choose a task of one phase, such as classify or pix2pix"
        )
    if any(phase.mixes_examples for phase in parts.task.phases):
        raise UserError("privacy: mixup mixes patients, so that a gradient is of more than one; set --task.mixup 0")
    if jax.tree.leaves(jax.eval_shape(parts.algorithm.accumulate, model.params, jnp.float32(0), jnp.float32(0))):
        raise UserError(
            "privacy: this algorithm sums gradients by the number of patients who came, which is a secret; choose "
            "--fed.algorithm fedavg, fedprox or fedadam"
        )
