"""One trial of gradient inversion: images that some hospitals train on, and what an attacker finds of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.attack import inversion, victim
from fedjax_mri.attack.inversion import Matching
from fedjax_mri.data.augment import scaled
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import State, init_state
from fedjax_mri.run.assemble import assemble
from fedjax_mri.run.config import Experiment


class Trial(NamedTuple):
    """True images, those that were found, and how close they are."""

    truth: np.ndarray  # float32 [n, H, W, C] from 0 to 1
    found: np.ndarray  # the same, in any order
    psnr: float  # dB, best paired
    ssim: float
    constant: tuple[float, float]  # PSNR and SSIM of a grey image, the mean of others' images
    mean: tuple[float, float]  # those of the mean image of others
    labels: float  # share of the labels that were inferred rightly; nan where they had to be known
    steps: int  # local steps behind the change that was seen


def inverter(
    config: Experiment,
    described: DataDescription,
    fields: dict[str, np.ndarray],
    others: np.ndarray,
    groups: int,
    how: Matching,
    state: State | None = None,
) -> Callable[[dict[str, np.ndarray]], Trial]:
    """Returns the attack on images in fields [n, ...] like `fields`, which `groups` hospitals share.

    The run is that of `config`, in the round of `state`, or its first. `others` [m, H, W, C] are images that the
    attacker has: only baselines are made of them.
    """
    first = victim.victims(fields, described.clients, groups)
    sim = assemble(config, described, first, Plan(devices=1, lanes=1, conv="xla").resolve())
    root, known = jax.random.key(config.seed), np.asarray(scaled(jnp.asarray(others)))
    see = victim.observer(sim, init_state(sim, root) if state is None else state, root, groups)
    count, key = len(fields["label"]), jax.random.fold_in(root, 1)
    search = inversion.searcher(sim, see(first), count, described.image, how)

    def invert(fields: dict[str, np.ndarray]) -> Trial:
        truth, seen = np.asarray(scaled(jnp.asarray(fields["image"]))), see(victim.victims(fields, *shares))
        labels, right = attacked_labels(seen, fields["label"], len(described.classes))
        found = inversion.linear_images(seen.change, labels, described.image)
        found = search(seen.change, labels, key) if found is None else found
        grey, mean = np.full_like(truth, known.mean()), np.repeat(known.mean(0, keepdims=True), count, 0)
        ours, of_grey, of_mean = (inversion.quality(one, truth) for one in (found, grey, mean))
        return Trial(truth, found, *ours, of_grey, of_mean, right, seen.steps)

    shares = described.clients, groups
    return invert


def attacked_labels(seen: victim.Seen, truth: np.ndarray, classes: int) -> tuple[np.ndarray, float]:
    """Returns the labels [n] that the attacker goes on with, and the share of them that is right.

    Where the network has no last layer with a bias the true ones are given away, and the share is nan.
    """
    change = inversion.last_bias(seen.change, classes)
    if change is None:
        return np.sort(truth), float("nan")
    labels = inversion.inferred_labels(change, seen.steps, float(seen.rate), len(truth))
    common = [np.bincount(one, minlength=classes) for one in (labels, truth)]
    return labels, float(np.minimum(*common).sum() / len(truth))
