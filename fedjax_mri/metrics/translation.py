"""Measures of a translated image that need the tissues of a phantom: errors by tissue, lesions kept and made up.

All are sums with their weights over one batch, so adding two tallies merges them, and every figure takes any leading
dimensions (`[...]`, say one tally per site). Images are float32 [B, H, W, 1], `weight` is [B] (0 for padding).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.metrics.ratio import ratio
from fedjax_mri.metrics.structure import pixel_size
from fedjax_mri.metrics.window import smooth


class TissueTally(NamedTuple):
    """Sums over pixels, each weighted by how much of it is that tissue."""

    absolute: jax.Array  # [..., T] |made - truth|, in the images' units
    signed: jax.Array  # [..., T] made - truth
    weight: jax.Array  # [..., T] pixels


def tissue_tally(made: jax.Array, truth: jax.Array, tissue: jax.Array, weight: jax.Array) -> TissueTally:
    """Returns the sums over one batch, in HU for CT, in 0..1 for MR, as the images are.

    tissue: memberships [B, H, W, T].
    """
    # Padding must not leak nan x 0.
    error = jnp.where(_per_image(weight) > 0, made - truth, 0.0)[..., 0]

    def total(values: jax.Array) -> jax.Array:
        return jnp.einsum("bhw,bhwt,b->t", values, tissue, weight, precision="highest")

    return TissueTally(total(jnp.abs(error)), total(error), total(jnp.ones_like(error)))


def tissue_error(t: TissueTally) -> jax.Array:
    """Returns the mean absolute error per tissue, [..., T]; nan for one that does not occur."""
    return ratio(t.absolute, t.weight)


def tissue_bias(t: TissueTally) -> jax.Array:
    """Returns the mean of made minus truth per tissue, [..., T]."""
    return ratio(t.signed, t.weight)


def tissue_summary(t: TissueTally, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Returns name -> (error, bias) of each tissue that occurs, for a tally without leading dimensions."""
    rows = zip(names, tissue_error(t), tissue_bias(t), t.weight)
    return {name: (float(error), float(bias)) for name, error, bias, weight in rows if weight > 0}


@dataclass(frozen=True)
class LesionRule:
    """How a lesion is found in the brain by its grey value alone, in true images and in those made alike.

    The rule knows nothing of place and shape, so that it finds only what the image shows. How well it works on the true
    images is printed beside every figure. On 624 patients of the phantom at 64 pixels its Dice
    with the truth, and its rate of false positives in the healthy, of whom a third have an infarct or the like, were:
    T1 with contrast agent .70 and .23, SPGR with it .63 and .27, FLAIR .45 and .26, T2 .40 and .17, T1 .29 and .23, CT
    .35 to .51 and .36 to .76. These figures are a little too good, as some of these patients were used to choose the
    settings. Rely on the rule for MR with contrast agent alone.
    """

    blur: float = 4.0  # mm, standard deviation; noise is not a lesion
    deviation: float = 3.0  # from the brain's median, in robust standard deviations (1.4826 MAD)
    least: float = 0.01  # share of that median; in a brain without any noise rounding is not a lesion
    area: float = 0.03  # share of the brain that must deviate for a patient to have a lesion
    ring: float = 8.0  # mm round a lesion, with which its contrast is compared
    brain: float = 0.9  # membership of a pixel that counts as brain


class LesionTally(NamedTuple):
    """Sums over patients of what the rule finds in true images and in those made, [...]."""

    dice: jax.Array  # Dice of the lesion found in the made image with the true mask
    ceiling: jax.Array  # Dice of the lesion found in the true image with it
    kept: jax.Array  # contrast in the made image x contrast in the true one
    contrast: jax.Array  # contrast in the true image, squared
    lesions: jax.Array  # patients with a lesion in the brain
    hallucinated: jax.Array  # healthy patients in whom only the made image has a lesion
    mistaken: jax.Array  # healthy patients in whom the true image has one: the rule's own false positives
    healthy: jax.Array  # patients without a lesion


def brain(tissue: jax.Array, within: jax.Array, rule: LesionRule) -> jax.Array:
    """Returns where to look for lesions, bool [B, H, W, 1].

    tissue [B, H, W, T]; within [T] is 1 for parenchyma and tumours.

    Of the phantom: grey and white matter, the three tumours, necrosis and oedema. Fluid, blood, calcifications, bone
    and all outside the skull deviate from brain in health.
    """
    return (tissue @ within > rule.brain)[..., None]


def segment(image: jax.Array, brain: jax.Array, rule: LesionRule) -> jax.Array:
    """Returns the lesion by the rule, bool [B, H, W, 1].

    It is the brain whose blurred value is too far from the median of the brain, above or below it, as a tumour may be
    bright (with contrast agent) or dark (its necrosis).
    """
    inside = brain.astype(image.dtype)
    sd = rule.blur / pixel_size(image)
    # Nothing from outside the brain may bleed into it.
    value = ratio(smooth(jnp.where(brain, image, 0.0), sd), smooth(inside, sd))
    middle = _median(value, brain)
    distance = jnp.abs(value - middle)
    limit = jnp.maximum(rule.deviation * 1.4826 * _median(distance, brain), rule.least * jnp.abs(middle))
    return brain & (distance > limit)


def is_lesion(lesion: jax.Array, brain: jax.Array, rule: LesionRule) -> jax.Array:
    """Returns whether what was segmented is large enough to be called a lesion, bool [B]."""
    return lesion.mean((1, 2, 3)) > rule.area * brain.mean((1, 2, 3))


def contrast(image: jax.Array, mask: jax.Array, brain: jax.Array, rule: LesionRule) -> jax.Array:
    """Returns the mean in the lesion minus the mean in the ring of brain round it, [B]; nan without either.

    mask in 0..1.
    """
    reach = rule.ring / pixel_size(image)
    near = _grown(mask, 1 + round(reach)) - _grown(mask, 1)
    ring = (near > 0.5) & brain
    return _mean(image, mask) - _mean(image, ring.astype(image.dtype))


def lesion_tally(
    made: jax.Array, truth: jax.Array, mask: jax.Array, brain: jax.Array, weight: jax.Array, rule: LesionRule
) -> LesionTally:
    """Returns the sums over one batch of images made and true.

    `mask` is the true lesion in 0..1, empty in the healthy; `brain` is where lesions are looked for.
    """
    healthy = mask.sum((1, 2, 3)) == 0
    mask = mask * brain.astype(mask.dtype)  # what can be found
    ill = mask.sum((1, 2, 3)) > 0
    segmented = {name: segment(image, brain, rule) for name, image in (("made", made), ("truth", truth))}
    has_lesion = {name: is_lesion(lesion, brain, rule) for name, lesion in segmented.items()}
    made_contrast, true_contrast = (contrast(image, mask, brain, rule) for image in (made, truth))

    def total(values: jax.Array, of: jax.Array) -> jax.Array:
        return jnp.where(of & (weight > 0), values * weight, 0.0).sum()

    one, known = jnp.ones_like(weight), ill & ~jnp.isnan(true_contrast)
    return LesionTally(
        dice=total(dice(segmented["made"], mask), ill),
        ceiling=total(dice(segmented["truth"], mask), ill),
        kept=total(made_contrast * true_contrast, known),
        contrast=total(true_contrast * true_contrast, known),
        lesions=total(one, ill),
        hallucinated=total(one, healthy & has_lesion["made"] & ~has_lesion["truth"]),
        mistaken=total(one, healthy & has_lesion["truth"]),
        healthy=total(one, healthy),
    )


def dice(found: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns twice the overlap over the sum of both, [B]; found bool, mask in 0..1; nan where both are empty."""
    found = found.astype(mask.dtype)
    return ratio(2 * (found * mask).sum((1, 2, 3)), (found + mask).sum((1, 2, 3)))


def lesion_summary(t: LesionTally) -> dict[str, float]:
    """Returns the figures of one tally without leading dimensions.

    `contrast kept` is the mean of made over true contrast, weighted by the square of the latter: the slope of the one
    on the other, so that a lesion which no one can see in the true image does not decide the figure.
    """
    figures = {
        "lesion Dice": ratio(t.dice, t.lesions),
        "lesion Dice of the true image": ratio(t.ceiling, t.lesions),
        "contrast kept": ratio(t.kept, t.contrast),
        "hallucination rate": ratio(t.hallucinated, t.healthy),
        "false positives in true images": ratio(t.mistaken, t.healthy),
    }
    return {name: float(value) for name, value in figures.items()}


def _per_image(weight: jax.Array) -> jax.Array:
    return weight[:, None, None, None]


def _mean(image: jax.Array, mask: jax.Array) -> jax.Array:
    return ratio((image * mask).sum((1, 2, 3)), mask.sum((1, 2, 3)))


def _median(image: jax.Array, brain: jax.Array) -> jax.Array:
    """Returns the median of the pixels in the brain, [B, 1, 1, 1]."""
    return jnp.nanmedian(jnp.where(brain, image, jnp.nan), (1, 2, 3), keepdims=True)


def _grown(mask: jax.Array, pixels: int) -> jax.Array:
    """Returns the mask grown by `pixels`: the largest value in a square around each pixel."""
    side = 2 * pixels + 1
    return jax.lax.reduce_window(mask, -jnp.inf, jax.lax.max, (1, side, side, 1), (1, 1, 1, 1), "SAME")
