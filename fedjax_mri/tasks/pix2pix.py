"""Paired translation of one modality into the other (system E): pix2pix (Isola et al. 2017), as two phases.

Batches hold the CT and the MR of the same patients; see `translation.py`. For a source x, the truth y, the generator G
and the discriminator D, which takes both images of a pair:

    1. discriminator   (gan(D(x, G(x)), made) + gan(D(x, y), real)) / 2     moves D, G(x) at rest
    2. generator       gan(D(x, G(x)), real) + l1 |G(x) - y| + extras       moves G against the new D

The reference makes G(x) once for both. G rests in phase 1, so without augmentation making it again gives the same image
if the same values are dropped: phase 1 leaves its key in the carry for phase 2. With augmentation each phase sees a
random view of its own, so that phase 2 judges other images of the same patients than phase 1. Statistics of BatchNorm
follow the reference: G's are recorded once, D's in each of its passes, which see made, real and again made pairs.

In use nothing is dropped and BatchNorm is by its running statistics. For batches of 1, which the reference normalises
one by one in use as well, take norm="instance". A step's figures are those of phase 2; the discriminator's own loss
is among those of an evaluation.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.metrics.image import mae
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net
from fedjax_mri.nets.translation import PatchGANSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.tasks.extras import Direction, Extras, with_features
from fedjax_mri.tasks.intensities import DIRECTIONS, Images, Window, network_inputs
from fedjax_mri.tasks.losses import GAN, adversarial
from fedjax_mri.tasks.task import Batch, Carry, Encoder, Loss, Model, Params, Phase, Task, mean
from fedjax_mri.tasks.translation import (
    DiscriminatorSharing,
    Terms,
    TranslationMethod,
    check_weights,
    image_shape,
    tally,
    task,
    trainable,
    weighted_sum,
)


@dataclass(frozen=True)
class Pix2Pix:
    """Settings of the translation task; local.optimizer="fedjax_mri.tasks.translation.adam", at 2e-4."""

    to: Literal["ct", "mr"] = "mr"  # what is made; the other modality is given
    generator: Any = field(default_factory=UNetSettings)
    discriminator: PatchGANSettings = field(default_factory=lambda: PatchGANSettings(norm="batch"))
    window: Window = (-100.0, 300.0)  # HU; None: CT is a picture in 0..1
    gan: GAN = "vanilla"
    l1: float = 100.0  # weight of the absolute error
    extras: Extras = field(default_factory=Extras)
    augment: Augment = field(default_factory=Augment)  # CT and MR alike; of shape alone, not of brightness
    discriminators: DiscriminatorSharing = "average"  # averaged by the server, or kept by the client

    def build(self, described: DataDescription, compute: Compute) -> Task:
        """Returns the task for images [H, W, C]; there are no classes. Raises UserError on impossible settings."""
        check_weights(self, "l1")
        for name in ("cycle_perceptual", "hu_bounds" if self.to == "mr" else "biophysical"):
            if name in self.extras.weights():
                raise UserError(f"task.extras.{name}: pix2pix to {self.to} alone has no such term; set it to 0")
        height, width, channels = image_shape(described)
        generator = self.generator.build((height, width, channels), compute)
        discriminator = self.discriminator.build((height, width, 2 * channels), compute)  # of a pair
        return with_features(self.extras, lambda encoder: pix2pix(self, generator, discriminator, encoder))


def pix2pix(settings: Pix2Pix, generator: Net, discriminator: Net, encoder: Encoder | None = None) -> Task:
    """Returns the task of translating one way by nets as `nets/translation.py` has them; the discriminator takes pairs.

    `encoder` is for perceptual terms.
    """
    source, to = next(way for way in DIRECTIONS if way[1] == settings.to)
    extras = settings.extras.build(settings.window, encoder)
    weights = {"adversarial": 1.0, "l1": settings.l1, **extras.weights}
    make = partial(translate_batch, generator, settings.window, source, to)
    gan_loss = partial(adversarial_loss, discriminator, settings.gan)

    def discriminator_loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        images, _ = make(params, carry, batch, key)
        fake, weight = jax.lax.stop_gradient(images.made), batch["weight"]
        of_made, carry = gan_loss(params, carry, images.source, fake, 0.0, weight, True)
        of_real, carry = gan_loss(params, carry, images.source, truth(images), 1.0, weight, True)
        terms = {"discriminator": (of_made + of_real) / 2}
        carry = {**carry, "key": jax.random.key_data(key)}
        return mean(terms["discriminator"], weight), (carry, tally(terms, weight))

    def generator_loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        images, carry = make(params, carry, batch, jax.random.wrap_key_data(carry["key"]))
        weight = batch["weight"]
        of_made, carry = gan_loss(params, carry, images.source, images.made, 1.0, weight, True)
        terms = {"adversarial": of_made, "l1": mae(images.made, truth(images)), **extras.terms(images, batch)}
        return mean(weighted_sum(weights, terms), weight), (carry, tally(terms, weight))

    def terms(params: Params, carry: Carry, batch: Batch) -> Terms:
        images, _ = make(params, carry, batch, None)
        ask = partial(gan_loss, params, carry, images.source, weight=batch["weight"], train=False)
        wished, of_made = (ask(images.made, label)[0] for label in (1.0, 0.0))
        of_real, _ = ask(truth(images), 1.0)
        found = {"l1": mae(images.made, truth(images)), **extras.terms(images, batch)}
        return {"adversarial": wished, **found, "discriminator": (of_made + of_real) / 2}

    def translate(params: Params, carry: Carry, images: Images, key: jax.Array | None) -> Images:
        if source not in images:
            return {}
        return {to: generator.apply(params["generator"], carry["generator"], images[source], None, False, key)[0]}

    players = Phase(discriminator_loss, trainable("discriminator")), Phase(generator_loss, trainable("generator"))
    method = TranslationMethod(partial(init, generator, discriminator), players, terms, translate, (to,), "l1")
    return task(settings.window, settings.discriminators, settings.augment, method)


def init(generator: Net, discriminator: Net, key: jax.Array) -> Model:
    """Returns both players drawn at random; the carry has room for the key that phase 1 leaves for phase 2."""
    nets = {"generator": generator, "discriminator": discriminator}
    models = {name: net.init(own) for (name, net), own in zip(nets.items(), jax.random.split(key))}
    params, carry = ({name: model[part] for name, model in models.items()} for part in (0, 1))
    return Model(params, {**carry, "key": jax.random.key_data(key)})


def translate_batch(
    generator: Net,
    window: Window,
    source: str,
    to: str,
    params: Params,
    carry: Carry,
    batch: Batch,
    key: jax.Array | None,
) -> tuple[Direction, Carry]:
    """Returns a batch's images, made and true, and the carry afterwards; with a key as in training."""
    images = network_inputs(window, batch)
    own = params["generator"], carry["generator"]
    fake, statistics = generator.apply(*own, images[source], batch["weight"], key is not None, key)
    return Direction(to, images[source], fake, truth=images[to]), {**carry, "generator": statistics}


def truth(images: Direction) -> jax.Array:
    """Returns the true image, which paired batches have."""
    assert images.truth is not None
    return images.truth


def adversarial_loss(
    discriminator: Net,
    kind: GAN,
    params: Params,
    carry: Carry,
    source: jax.Array,
    y: jax.Array,
    label: float,
    weight: jax.Array,
    train: bool,
) -> tuple[jax.Array, Carry]:
    """Returns how far the discriminator is from calling pairs of source and y real or made, [B]; and the carry.

    `label` is 1 for real and 0 for made.
    """
    pair, own = jnp.concatenate([source, y], -1), (params["discriminator"], carry["discriminator"])
    scores, statistics = discriminator.apply(*own, pair, weight, train)
    return adversarial(kind, scores, label), {**carry, "discriminator": statistics}
