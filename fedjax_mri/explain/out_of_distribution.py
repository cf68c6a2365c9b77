"""Whether an image is unlike those of a run, so that nobody takes its prediction for a diagnosis.

Where the run has kept a `Reference`, the image's features, grey values and outline are compared with those of the
validation images; other runs have the energies of a few test images. A few checks need nothing to compare with.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.metrics import appearance, outliers
from fedjax_mri.run.record import Reference
from fedjax_mri.run.reference import distances

FALSE_ALARMS = 0.05  # share of images of the run's own kind that are called unlike
MIN_HEAD_SHARE = 0.01  # share of the image that a head covers at least
FLAT, HEADLESS = "all pixels have the same grey value", "almost all of it is dark: there is no head"
FAULTS = (FLAT, HEADLESS)  # of images that show nothing
SCORED = ("features", "appearance")  # kinds by which an image is called unlike
WORDS = {  # kinds that say in what it is
    "features": "features of the network",
    "grey values": "extent of grey values",
    "outline": "size or shape of the head",
}


class OODReference(NamedTuple):
    """What images like a run's own look like."""

    reference: Reference | None  # of runs that have kept one
    energies: np.ndarray  # [m], of the few test images that every run keeps

    @property
    def images(self) -> int:
        """The number of images among which a p value ranks an image."""
        return len(self.energies) if self.reference is None else len(next(iter(self.reference.distances.values())))


class OODResult(NamedTuple):
    """How unlike a run's own images one is."""

    p: float | None  # the chance that an image of the run's own kind is this unlike; None: nothing to compare with
    reasons: list[str]  # why a person should look


def detect_ood(
    ood_reference: OODReference, images: np.ndarray, logits: jax.Array, described: Mapping[str, Any]
) -> list[OODResult]:
    """Returns how unlike a run's own images some are, [n, H, W, C] as read.

    They have logits [n, C] and descriptions [n, d].
    """
    faults = [shown_faults(one) for one in zip(appearance.is_flat(jnp.asarray(images)), described["outline"][:, 0])]
    if ood_reference.reference is not None:
        by_kind, p = compared(ood_reference.reference, described)
        return [
            OODResult(
                float(one),
                [*fault, *feature_ood_sentence(ood_reference.images, one, {kind: x[i] for kind, x in by_kind.items()})],
            )
            for i, (one, fault) in enumerate(zip(p, faults))
        ]
    if not ood_reference.images:
        return [OODResult(None, fault) for fault in faults]
    p = outliers.p_value(np.asarray(outliers.energy(logits)), ood_reference.energies)
    return [
        OODResult(float(one), [*fault, *energy_ood_sentence(ood_reference.images, one)])
        for one, fault in zip(p, faults)
    ]


def shown_faults(shown: tuple[Any, Any]) -> list[str]:
    """Returns sentences on an image that shows nothing; none on another.

    `shown` is whether the image is flat, and the share of it that is head.
    """
    if shown[0]:
        return [FLAT]
    return [HEADLESS] if shown[1] < MIN_HEAD_SHARE else []


def compared(reference: Reference, described: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns p values [n] of descriptions [n, d] among the validation images: by kind, and of all kinds together."""
    found = distances(reference, described)
    pairs = {kind: (one, reference.distances[kind]) for kind, one in found.items()}
    each = {kind: outliers.p_value(*pairs[kind]) for kind in WORDS if kind in pairs}
    scores, known = (np.stack(columns, 1) for columns in zip(*(pairs[kind] for kind in SCORED if kind in pairs)))
    return each, outliers.combined_p_value(scores, known)


def feature_ood_sentence(images: int, p: float, by_kind: Mapping[str, float]) -> list[str]:
    """Returns the sentence on an image that is unlike the validation images; none for others.

    The sentence has the kinds in which the image is unlike them.
    """
    if p > FALSE_ALARMS:
        return []
    limit = max(FALSE_ALARMS, min(by_kind.values()))
    kinds = [WORDS[kind] for kind, one in by_kind.items() if one <= limit]
    return [f"unlike the {images} validation images ({', '.join(kinds)}; p = {p:.3f})"]


def energy_ood_sentence(images: int, p: float) -> list[str]:
    """Returns the sentence on an image with a higher energy than all images that a run has kept; none for others."""
    few = p <= 1 / (1 + images)
    return [f"unlike all of the {images} test images that the run has kept (energy)"] if few else []
