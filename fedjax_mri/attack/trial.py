"""One trial of gradient inversion: images that some hospitals train on, and what an attacker finds of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.attack import inversion, victim
from fedjax_mri.attack.inversion import Matching
from fedjax_mri.core.errors import UserError
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


def invert(
    config: Experiment,
    described: DataDescription,
    fields: dict[str, np.ndarray],
    others: np.ndarray,
    groups: int,
    how: Matching,
    state: State | None = None,
) -> Trial:
    """Returns what an attacker finds of the images in `fields` [n, ...], held by `groups` hospitals in equal shares.

    The run is that of `config`, in the round of `state`, or its first. `others` [m, H, W, C] are images that the
    attacker has: only baselines are made of them. Raises UserError where images are volumes, or hospitals are too many.
    """
    if len(described.image) != 3:
        raise UserError(f"attack --inversion: needs images [H, W, C], the data have the shape {list(described.image)}")
    if groups > described.clients:
        raise UserError(f"--cohort {groups}: the run has {described.clients} hospitals; give as many or fewer")
    data = victim.victims(fields, described.clients, groups)
    sim = assemble(config, described, data, Plan(devices=1, lanes=1, conv="xla").resolve())
    root = jax.random.key(config.seed)
    seen = victim.see(sim, init_state(sim, root) if state is None else state, root, groups)
    labels, right = attacked_labels(seen, fields["label"], len(described.classes))
    found = inversion.linear_images(seen.change, labels, described.image)
    if found is None:
        found = inversion.matched_images(sim, seen, labels, described.image, how, jax.random.fold_in(root, 1))
    truth, known = (np.asarray(scaled(jnp.asarray(images))) for images in (fields["image"], others))
    return Trial(
        truth,
        found,
        *inversion.quality(found, truth),
        constant=inversion.quality(np.full_like(truth, known.mean()), truth),
        mean=inversion.quality(np.repeat(known.mean(0, keepdims=True), len(truth), 0), truth),
        labels=right,
        steps=seen.steps,
    )


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
