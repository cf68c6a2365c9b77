"""Gradient inversion: images found again from the change of the model that a hospital sends.

A linear model gives its only image away by one division. For other networks the attacker trains on images of its own,
by the same local steps, and moves these until their change of the model points the same way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment

from fedjax_mri.attack.victim import Seen
from fedjax_mri.core import trees
from fedjax_mri.fed.client.local import ClientStart, Local, init_optimizers, local_step
from fedjax_mri.fed.engine.simulation import Simulation
from fedjax_mri.metrics.image import WANG, psnr, ssim
from fedjax_mri.tasks.task import Params

DECAYS = (3 / 8, 5 / 8, 7 / 8)  # of the steps, after which they are ten times smaller (Geiping et al. 2020)
TINY = 1e-30
Search = Callable[[Params, np.ndarray, jax.Array], np.ndarray]  # (change, labels [n], key) -> images [n, H, W, C]


@dataclass(frozen=True)
class Matching:
    """How the attacker looks for images."""

    steps: int = 1500
    rate: float = 0.1  # of the first steps, in shares of the range from black to white
    variation: float = 0.01  # weight of the total variation, which asks for smooth images
    distance: Literal["cosine", "squares"] = "cosine"  # of changes of the model
    starts: int = 1  # random images to start from; the ones whose change lies closest at the end are taken


def cosine_distance(mine: Params, seen: Params) -> jax.Array:
    """Returns one minus the cosine of the angle between two changes (Geiping et al. 2020, arXiv 2003.14053).

    Their lengths do not count, so that a clip changes nothing.
    """
    product = sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(seen)))
    return 1 - product / jnp.maximum(trees.norm(mine) * trees.norm(seen), TINY)


def squared_distance(mine: Params, seen: Params) -> jax.Array:
    """Returns the squared distance of two changes over the square of the one seen (DLG: Zhu et al. 2019)."""
    return jnp.square(trees.norm(trees.subtract(mine, seen)) / jnp.maximum(trees.norm(seen), TINY))


def total_variation(images: jax.Array) -> jax.Array:
    """Returns the mean absolute difference of neighbouring pixels of images [n, H, W, C]."""
    return sum((jnp.abs(jnp.diff(images, axis=axis)).mean() for axis in (1, 2)), jnp.float32(0))


def simulated_change(sim: Simulation, seen: Seen, labels: jax.Array, key: jax.Array, images: jax.Array) -> Params:
    """Returns the change of the parameters that local steps on `images` [n, H, W, C] with `labels` [n] make.

    The attacker knows neither the order of the images nor the random numbers of augmentation, and takes its own. It
    takes plain gradient steps whatever the optimiser is: those of others cannot be differentiated where a gradient is
    0. Images of several hospitals are taken for those of one.
    """
    local = Local(sim.local.epochs, sim.local.batch, optax.sgd, sim.local.schedule)
    shared = trees.split(sim.task.shared(seen.start), seen.start)[0]
    start = ClientStart(seen.start, seen.server, sim.algorithm.init_client(shared))
    model, states = seen.start, init_optimizers(sim.task, local, seen.start, seen.rate)
    size = math.ceil(len(labels) / max(1, seen.steps // local.epochs))
    chunks = [slice(first, first + size) for first in range(0, len(labels), size)]
    for step in range(seen.steps):
        some = chunks[step % len(chunks)]
        batch = {"image": images[some], "label": labels[some], "weight": jnp.ones(len(labels[some]), jnp.float32)}
        model, states, *_ = local_step(
            sim.task, sim.algorithm, local, start, model, states, seen.rate, batch,
            jnp.float32(step / seen.steps), jax.random.fold_in(key, step),
        )  # fmt: skip
    return trees.only(trees.subtract(model.params, seen.start.params), seen.change)


def searcher(sim: Simulation, seen: Seen, count: int, shape: tuple[int, ...], how: Matching) -> Search:
    """Returns a function that finds `count` images [H, W, C] = `shape` on which local steps change the model as seen.

    Its change of the model is another one than that of `seen`, if it is of the same broadcast and as many steps.
    """
    distance = cosine_distance if how.distance == "cosine" else squared_distance
    schedule = optax.piecewise_constant_schedule(how.rate, {int(share * how.steps): 0.1 for share in DECAYS})
    optimizer = optax.adam(schedule)

    def cost(images: jax.Array, change: Params, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        away = distance(simulated_change(sim, seen, labels, key, images), change)
        return away + how.variation * total_variation(images), away

    @jax.jit
    def step(
        images: jax.Array, state: optax.OptState, change: Params, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, optax.OptState, jax.Array]:
        slope, away = jax.grad(cost, has_aux=True)(images, change, labels, key)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            move, state = optimizer.update(jnp.sign(slope), state)
        return jnp.clip(images + move, 0.0, 1.0), state, away

    def search(change: Params, labels: np.ndarray, key: jax.Array) -> np.ndarray:
        found, known = [], jnp.asarray(labels, jnp.int32)
        for start in jax.random.split(key, how.starts):
            images = jax.random.uniform(start, (count, *shape))
            state, away = optimizer.init(images), jnp.float32(0)
            for number in range(how.steps):
                images, state, away = step(images, state, change, known, jax.random.fold_in(start, number))
            found.append((float(away), np.asarray(images)))
        return min(found, key=lambda one: one[0])[1]

    return search


def linear_images(change: Params, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns what a linear model gives away: dW_i / db_i of each label i, [n, H, W, C]; None for other models.

    The gradient of logit i is db_i, and that of its weights db_i times the image: with one image the ratio is the
    image, whatever was multiplied on both, and a mixture with several.
    """
    leaves = {name.rpartition(".")[2]: np.asarray(leaf, np.float64) for name, leaf in trees.named(change).items()}
    if len(jax.tree.leaves(change)) != 2 or leaves.keys() != {"kernel", "bias"}:
        return None
    if len(leaves["kernel"]) != math.prod(shape):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (leaves["kernel"] / leaves["bias"]).T[labels].reshape(len(labels), *shape)
    return np.clip(np.nan_to_num(ratio, nan=0.5), 0, 1)


def last_bias(change: Params, classes: int) -> np.ndarray | None:
    """Returns the change [C] of the bias of the last layer; None where no such layer is found."""
    named = [leaf for name, leaf in trees.named(change).items() if name.endswith("logits.bias")]
    return np.asarray(named[0], np.float64) if named and named[0].shape == (classes,) else None


def inferred_labels(bias_change: np.ndarray, steps: int, rate: float, examples: int) -> np.ndarray:
    """Returns labels int32 [n] of n = `examples` images, in rising order, from the change [C] of the last bias.

    The gradient of the bias is the mean over images of the probability of a class minus 1 for the true one. So one
    image's label is the class of the negative gradient (iDLG: Zhao et al. 2020, arXiv 2001.02610), and of several
    images a class has n (1/C - gradient) while the model knows nothing yet (Wainakh et al. 2022, arXiv 2105.09369).
    """
    share = np.maximum(1 / len(bias_change) + bias_change / (rate * steps), 0)
    wanted = examples * share / share.sum()
    count = np.floor(wanted).astype(int)
    rest = np.argsort(count - wanted, kind="stable")[: examples - count.sum()]
    count[rest] += 1
    if examples == 1:
        count = np.eye(len(count), dtype=int)[bias_change.argmax()]
    return np.repeat(np.arange(len(count), dtype=np.int32), count)


def quality(images: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Returns mean PSNR in dB and SSIM of `images` against `truth`, both [n, H, W, C] from 0 to 1, best paired.

    The attacker does not know the order of a batch: each image counts for one true one, so that the PSNR is largest.
    """
    n = len(truth)
    pairs = [np.repeat(images, n, 0), np.tile(truth, (n, 1, 1, 1))]
    left, right = (jnp.asarray(one, jnp.float32) for one in pairs)
    decibels = np.asarray(psnr(left, right, WANG), np.float64).reshape(n, n)
    structure = np.asarray(ssim(left, right, WANG), np.float64).reshape(n, n)
    best = linear_sum_assignment(np.nan_to_num(decibels, posinf=1e3), maximize=True)
    return float(decibels[best].mean()), float(structure[best].mean())
