"""What the tasks of translating between CT and MR share: players, sums of terms, evaluation, and what travels.

A batch holds "ct", in HU (with `window` None: a picture in 0..1), and "mr" in 0..1, float32 [B, H, W, C]: of different
patients in unpaired training, of the same one for pix2pix and in tests. Networks take both in -1..1.

Params are {"generator": ..., "discriminator": ...}; so is the carry, where it keeps running statistics, with what else
a task remembers beside them. All arrays of one batch share its weight [B].
"""

from collections.abc import Callable, Iterable
from dataclasses import astuple
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.core import checks
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.data.augment import Augment, augment
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.nets.functional import Net
from fedjax_mri.tasks import measures
from fedjax_mri.tasks.intensities import Images, Window, in_units, limits, network_inputs, to_unit_range
from fedjax_mri.tasks.task import Batch, Carry, Loss, Metrics, Model, Params, Phase, PyTree, Task, Translation

DiscriminatorSharing = Literal["average", "local"]  # discriminators are averaged by the server, or stay with clients
HELD = (-1024.0, 3071.0)  # HU that a CT of 12 bits can hold; augmentation clips what lies beyond
VIEWS = 2**31 - 1  # number of a step's key that losses leave free
Terms = dict[str, jax.Array]  # name -> [B], or sums over examples [...]; then with their "weight"


class TranslationMethod(NamedTuple):
    """What a method of translation, such as a CycleGAN, brings; `task` does the rest for all of them."""

    init: Callable[[jax.Array], Model]
    phases: tuple[Phase, ...]
    terms: Callable[[Params, Carry, Batch], Terms]  # of a test batch, each [B]
    # (params, carry, images in -1..1, key or None) -> those of the modalities `makes` whose source is among the images,
    # in -1..1; with a key by the network's noise
    translate: Callable[[Params, Carry, Images, jax.Array | None], Images]
    makes: tuple[str, ...]  # modalities
    score: str  # the term by which models are compared, lower is better


def task(
    window: Window, discriminators: DiscriminatorSharing, augmentation: Augment, method: TranslationMethod
) -> Task:
    """Returns the translation task of `method`.

    Raises UserError on a window whose ends are not in order, and on an augmentation that changes intensities.
    """
    limits(window)
    if augmentation.brightness or augmentation.contrast:
        raise UserError("task.augment: intensities are what is learnt; set brightness and contrast to 0")
    predict = partial(images_made, window, method)

    def evaluate(params: Params, carry: Carry, batch: Batch) -> Metrics:
        made = measures.measures(predict(params, carry, batch, None), batch, window)
        return tally(method.terms(params, carry, batch), batch["weight"]) | {"made": made}

    def shared(model: Model) -> PyTree:
        travels = {"generator": True, "discriminator": discriminators == "average"}
        return Model(*(mark_branches(tree, travels) for tree in model))

    makes = method.makes
    return Task(
        init=method.init,
        phases=tuple(with_augmentation(window, augmentation, phase) for phase in method.phases),
        evaluate=evaluate,
        predict=lambda params, carry, batch: predict(params, carry, batch, None),
        shared=shared,
        summary=partial(summary, window),
        score=lambda sums: -sums[method.score] / sums["weight"],
        kept=lambda made, batch: measures.of_each_example(made, batch, window),
        shown=partial(images_shown, window, method),
        headline=tuple(f"{to}/{figure}" for figure in ("ssim", "mae") for to in ("mr", "ct") if to in makes),
        translation=Translation(makes, window),
        reads={"ct": "hu" if window else "unit", "mr": "unit"},
        draw=predict,
    )


def with_augmentation(window: Window, augmentation: Augment, phase: Phase) -> Phase:
    """Returns the phase with a loss of images changed at random, CT and MR of one place in the batch alike."""
    if not any(astuple(augmentation)):
        return phase

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        return phase.loss(params, carry, augmented(window, augmentation, batch, jax.random.fold_in(key, VIEWS)), key)

    return phase._replace(loss=loss)


def augmented(window: Window, augmentation: Augment, batch: Batch, key: jax.Array) -> Batch:
    """Returns the batch with CT and MR seen through one random view for each place; around them are air and black."""
    low, high = HELD if window else (0.0, 1.0)
    both = jnp.concatenate([(batch["ct"] - low) / (high - low), batch["mr"]], -1)
    ct, mr = jnp.split(augment(augmentation, key, both), 2, -1)
    return {**batch, "ct": low + (high - low) * ct, "mr": mr}


def images_made(
    window: Window, method: TranslationMethod, params: Params, carry: Carry, batch: Batch, key: jax.Array | None
) -> Images:
    """Returns the images that `method` makes of a batch, in the units of their modalities."""
    made = method.translate(params, carry, network_inputs(window, batch), key)
    return {to: in_units(window, to, image) for to, image in made.items()}


def images_shown(
    window: Window, method: TranslationMethod, params: Params, carry: Carry, batch: Batch
) -> dict[str, jax.Array]:
    """Returns the batch's images, those made of them ("made_mr") and those made of these ("back_ct"), all in 0..1."""
    images = network_inputs(window, batch)
    made = method.translate(params, carry, images, None)
    back = {f"back_{name}": x for name, x in method.translate(params, carry, made, None).items()}
    shown = images | {f"made_{name}": x for name, x in made.items()} | back
    return {name: to_unit_range(x) for name, x in shown.items()}


def summary(window: Window, sums: Metrics) -> dict[str, float]:
    """Returns named figures from merged sums: the mean of each term, and how good the images made are."""
    of_terms = {name: float(x / sums["weight"]) for name, x in sums.items() if name not in ("weight", "made")}
    return of_terms | measures.summary(sums.get("made", {}), sums["weight"], window)


def mark_branches(tree: dict[str, PyTree], marks: dict[str, bool]) -> dict[str, PyTree]:
    """Returns a tree with the mark of its branch at each leaf; False where the branch has none."""
    return {name: jax.tree.map(lambda _, name=name: marks.get(name, False), branch) for name, branch in tree.items()}


def trainable(player: str) -> Callable[[Params], PyTree]:
    """Returns a function from params to the mask of one player's parameters."""
    return lambda params: mark_branches(params, {player: True})


def init_each(net: Net, keys: dict[str, jax.Array]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Returns params and carry by name, of a net drawn at random for each name."""
    models = {name: net.init(key) for name, key in keys.items()}
    return {name: params for name, (params, _) in models.items()}, {name: carry for name, (_, carry) in models.items()}


def apply_to_each(
    apply: Callable[[jax.Array, jax.Array], tuple[jax.Array, PyTree]], weight: jax.Array, *x: jax.Array
) -> tuple[list[jax.Array], PyTree]:
    """Returns a net's outputs for several batches [B, ...] of one weight [B], and its carry after the first of them.

    They go in one pass where no running statistics, and so no BatchNorm, make examples depend on each other.
    """
    if len(x) > 1 and not jax.tree.leaves(jax.eval_shape(apply, x[0], weight)[1]):
        together, carry = apply(jnp.concatenate(x), jnp.tile(weight, len(x)))
        return jnp.split(together, len(x)), carry
    results = [apply(one, weight) for one in x]
    return [y for y, _ in results], results[0][1]


def add_terms(parts: Iterable[Terms]) -> Terms:
    """Returns terms of several directions, added by name."""
    total: Terms = {}
    for part in parts:
        total |= {name: total[name] + values if name in total else values for name, values in part.items()}
    return total


def weighted_sum(weights: dict[str, float], terms: Terms) -> jax.Array:
    """Returns the weighted sum [B] of the terms that have a weight."""
    return sum((weights[name] * values for name, values in terms.items() if name in weights), start=jnp.float32(0))


def tally(terms: Terms, weight: jax.Array) -> Terms:
    """Returns the weighted sums of terms over a batch."""
    return {name: jnp.sum(values * weight) for name, values in terms.items()} | {"weight": jnp.sum(weight)}


def image_shape(described: DataDescription) -> tuple[int, int, int]:
    """Returns the shape [H, W, C] of the data's images.

    Raises UserError on volumes: losses and networks are for images.
    """
    return checks.planar(described.image, "translation between CT and MR")


def check_weights(settings: Any, *names: str, at: str = "task") -> None:
    """Raises UserError on a weight or count below 0, in the section `at`."""
    for name in names:
        value = getattr(settings, name)
        if is_concrete(value) and not value >= 0:
            raise UserError(f"{at}.{name}={value}: give 0 or more")


def adam(rate: jax.Array) -> optax.GradientTransformation:
    """Returns Adam as adversarial training wants it.

    local.optimizer="fedjax_mri.tasks.translation.adam", rate 2e-4.
    """
    return optax.adam(rate, b1=0.5)
