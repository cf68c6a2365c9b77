"""How good a translator is on pairs: images against the truth, their distribution, tissues and lesions.

Everything is a sum over test examples, so that tallies of batches, clients and devices are merged by adding them.
Images are compared in 0..1, CT in its window: its error in HU is that share of the window, so HU beyond it count as its
ends. Tissues and lesions are known of the phantom alone (`tissue`, `mask`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.contract import UNPAIRED
from fedjax_mri.data.phantom.physics import ADENOMA, GLIOMA, GREY, MENINGIOMA, NAMES, NECROSIS, OEDEMA, WHITE
from fedjax_mri.metrics import distance, image, translation
from fedjax_mri.metrics.distance import Moments
from fedjax_mri.metrics.translation import LesionRule, TissueTally
from fedjax_mri.tasks.intensities import Images, Window, displayed, limits
from fedjax_mri.tasks.task import Batch, Metrics

PARENCHYMA = np.isin(np.arange(len(NAMES)), (GREY, WHITE, GLIOMA, MENINGIOMA, ADENOMA, NECROSIS, OEDEMA))
WITHIN = PARENCHYMA.astype(np.float32)  # [T]
RULE = LesionRule()


def measures(made: Images, batch: Batch, window: Window) -> Metrics:
    """Returns the sums over a paired batch, for each modality made; images are in the units of their modality."""
    return {to: measures_of(made[to], batch, to, window) for to in made}


def measures_of(made: jax.Array, batch: Batch, to: str, window: Window) -> dict[str, Any]:
    """Returns the sums over a batch of one modality.

    They are of figures [], moments of features, and tissues and lesions where these are known.
    """
    x, y, weight = displayed(window, to, made), displayed(window, to, batch[to]), batch["weight"]
    own = compared(x, y, batch)
    sums: dict[str, Any] = {name: jnp.sum(jnp.where(weight > 0, v, 0.0) * weight) for name, v in own.items()}
    sums["moments"] = {"made": moments(x, weight), "real": moments(y, weight)}
    if "tissue" in batch:
        sums["tissue"] = translation.tissue_tally(x, y, batch["tissue"], weight)
        brain = translation.brain(batch["tissue"], jnp.asarray(WITHIN), RULE)
        sums["lesion"] = translation.lesion_tally(x, y, batch["mask"], brain, weight, RULE)
    return sums


def of_each_example(made: Images, batch: Batch, window: Window) -> dict[str, jax.Array]:
    """Returns fields "mr/..." that a run keeps of each example: its figures [B], and features [B, d] of both images."""
    fields: dict[str, jax.Array] = {}
    for to in made:
        x, y = displayed(window, to, made[to]), displayed(window, to, batch[to])
        own = compared(x, y, batch) | {"made": distance.structure_features(x), "real": distance.structure_features(y)}
        fields |= {f"{to}/{name}": value for name, value in own.items()}
    return fields


def compared(x: jax.Array, y: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Returns the `image_metrics` of images made and true.

    They are nan in a batch of CT and MR of different patients, who have no truth.
    """
    found = image_metrics(x, y)
    return jax.tree.map(lambda value: jnp.full_like(value, jnp.nan), found) if UNPAIRED in batch else found


def image_metrics(x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    """Returns figures [B] of images made and true in 0..1; PSNR and SSIM by the preset UNIT, where its window fits."""
    fits = min(x.shape[1:3]) >= image.UNIT.size
    return {
        **({"psnr": image.psnr(x, y, image.UNIT), "ssim": image.ssim(x, y, image.UNIT)} if fits else {}),
        "mae": image.mae(x, y),
        "mse": image.mse(x, y),
        "ncc": image.ncc(x, y),
        "cosine": image.cosine(x, y),
        "mutual information": image.mutual_information(x, y),
    }


def moments(x: jax.Array, weight: jax.Array) -> Moments:
    """Returns weighted moments of the features of images in 0..1, weight [B]."""
    return distance.moments(distance.structure_features(x), weight)


def summary(sums: Metrics, weight: Any, window: Window) -> dict[str, float]:
    """Returns named figures "mr/ssim" from merged sums over `weight` examples.

    Errors are in HU where the window is known.
    """
    found: dict[str, float] = {}
    for to, own in sums.items():
        low, high = limits(window)[to]
        scale, unit = (high - low, " HU") if to == "ct" and window else (1.0, "")
        of = {name: float(own[name] / weight) for name in own if name not in ("moments", "tissue", "lesion")}
        of["rmse"] = float(np.sqrt(of.pop("mse")))
        if unit:
            of |= {f"{name}{unit}": scale * of[name] for name in ("mae", "rmse")}
        of["frechet"] = distance.frechet_of(own["moments"]["made"], own["moments"]["real"])
        if "tissue" in own:
            of |= tissues(own["tissue"], scale, unit) | translation.lesion_summary(own["lesion"])
        found |= {f"{to}/{name}": value for name, value in of.items()}
    return found


def tissues(tally: TissueTally, scale: float, unit: str) -> dict[str, float]:
    """Returns the mean absolute error and bias in each tissue that occurs."""
    each = translation.tissue_summary(tally, NAMES)
    errors = {f"error{unit} in {name}": scale * error for name, (error, _) in each.items()}
    return errors | {f"bias{unit} in {name}": scale * bias for name, (_, bias) in each.items()}
