"""Unpaired translation through a common code (system E): UNIT (Liu et al. 2017), as two phases.

Batches hold the CT and the MR of different patients; see `translation.py`. Each modality m has an encoder E_m to the
mean of a code, a decoder G_m, and a discriminator D_m of several scales. For each direction x -> y, with fresh noise
n ~ N(0, 1) each time, z = E_x(x) + n, fake = G_y(z), z' = E_y(fake) + n':

    1. discriminator   gan (D_y(fake)^2 + (D_y(y) - 1)^2), added over scales         moves D, fake at rest
    2. generators      gan (D_y(fake) - 1)^2 + reconstruction |G_x(z) - x| + cycle |G_x(z') - x|
                       + kl E_x(x)^2 + cycle_kl E_y(fake)^2 + extras                 moves E and G, against the new D

Of a code with variance 1, E(x)^2 is the KL divergence from N(0, 1) but for a factor 2. Weights and order are those of
`UNIT_Trainer` in the authors' release with MUNIT. In use there is no noise. A step's figures are those of phase 2; the
discriminators' own loss is among those of an evaluation.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.metrics.image import mae
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net
from fedjax_mri.nets.unit import Autoencoder, ScalesSettings, UNITSettings
from fedjax_mri.tasks.extras import Direction, Extras, ExtraTerms, with_features
from fedjax_mri.tasks.intensities import DIRECTIONS, MODALITIES, Images, Window, network_inputs
from fedjax_mri.tasks.losses import adversarial
from fedjax_mri.tasks.task import Batch, Carry, Encoder, Loss, Model, Params, Phase, Task, mean
from fedjax_mri.tasks.translation import (
    DiscriminatorSharing,
    Terms,
    TranslationMethod,
    add_terms,
    check_weights,
    image_shape,
    tally,
    task,
    trainable,
    weighted_sum,
)


@dataclass(frozen=True)
class UNIT:
    """Settings of the translation task; local.optimizer="fedjax_mri.tasks.unit.adam", at 1e-4."""

    generator: Any = field(default_factory=UNITSettings)
    discriminator: Any = field(default_factory=ScalesSettings)  # or PatchGANSettings, without BatchNorm
    window: Window = (-100.0, 300.0)  # HU; None: CT is a picture in 0..1
    gan: float = 1.0  # weight of the adversarial term, LSGAN
    reconstruction: float = 10.0
    kl: float = 0.01
    cycle: float = 10.0
    cycle_kl: float = 0.01
    extras: Extras = field(default_factory=Extras)
    augment: Augment = field(default_factory=Augment)  # CT and MR alike; of shape alone, not of brightness
    discriminators: DiscriminatorSharing = "average"  # averaged by the server, or kept by the client

    def build(self, described: DataDescription, compute: Compute) -> Task:
        """Returns the task for images [H, W, C]; there are no classes. Raises UserError on impossible settings."""
        check_weights(self, "gan", "reconstruction", "kl", "cycle", "cycle_kl")
        image = image_shape(described)
        nets = self.generator.build(image, compute), self.discriminator.build(image, compute)
        if jax.tree.leaves(jax.eval_shape(nets[1].init, jax.random.key(0))[1]):
            raise UserError(
                "task.discriminator: keeps running statistics, which UNIT's discriminators do not have; choose "
                "--task.discriminator.norm instance"
            )
        return with_features(self.extras, lambda encoder: unit(self, *nets, encoder))


def adam(rate: jax.Array) -> optax.GradientTransformation:
    """Returns Adam with the moments of UNIT's release, and its L2 of 1e-4 on the weights as part of the gradient."""
    return optax.chain(optax.add_decayed_weights(1e-4), optax.adam(rate, b1=0.5, b2=0.999))


class Networks(NamedTuple):
    """One network for each player; params hold its values for each modality."""

    coder: Autoencoder
    discriminator: Net


def unit(settings: UNIT, coder: Autoencoder, discriminator: Net, encoder: Encoder | None = None) -> Task:
    """Returns the task of translating both ways through a code; `encoder` is for perceptual terms."""
    nets, extras = Networks(coder, discriminator), settings.extras.build(settings.window, encoder)
    weights = {"adversarial": settings.gan, "reconstruction": settings.reconstruction, "kl": settings.kl}
    weights |= {"cycle": settings.cycle, "cycle_kl": settings.cycle_kl, **extras.weights}

    def discriminator_loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        terms = discriminator_terms(nets, settings.window, params, batch, key)
        loss = settings.gan * mean(terms["discriminator"], batch["weight"])
        return loss, (carry, tally(terms, batch["weight"]))

    def generator_loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        terms = generator_terms(nets, extras, settings.window, params, batch, key)
        return mean(weighted_sum(weights, terms), batch["weight"]), (carry, tally(terms, batch["weight"]))

    def terms(params: Params, carry: Carry, batch: Batch) -> Terms:
        of_generators = generator_terms(nets, extras, settings.window, params, batch, None)
        return of_generators | discriminator_terms(nets, settings.window, params, batch, None)

    def translate(params: Params, carry: Carry, images: Images, key: jax.Array | None) -> Images:
        ways = [(source, to) for source, to in DIRECTIONS if source in images]
        return {to: decode(nets, params, to, encode(nets, params, source, images[source], key, 0)[1])
                for source, to in ways}  # fmt: skip

    players = Phase(discriminator_loss, trainable("discriminator")), Phase(generator_loss, trainable("generator"))
    method = TranslationMethod(partial(init, nets), players, terms, translate, MODALITIES, "cycle")
    return task(settings.window, settings.discriminators, settings.augment, method)


def init(nets: Networks, key: jax.Array) -> Model:
    """Returns networks of both players for each modality, drawn at random."""
    keys = jax.random.split(key, (2, 2))
    coders = {name: nets.coder.init(own) for name, own in zip(MODALITIES, keys[0])}
    discriminators = {name: nets.discriminator.init(own)[0] for name, own in zip(MODALITIES, keys[1])}
    return Model({"generator": coders, "discriminator": discriminators}, {})


def encode(
    nets: Networks, params: Params, modality: str, x: jax.Array, key: jax.Array | None, draw: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean of x's code, and a sample of it; without a key the mean twice.

    `draw` numbers the samples that a step draws of one modality.
    """
    code = nets.coder.encode(params["generator"][modality], x)
    if key is None:
        return code, code
    own = jax.random.fold_in(key, 2 * MODALITIES.index(modality) + draw)
    return code, code + jax.random.normal(own, code.shape, code.dtype)


def decode(nets: Networks, params: Params, modality: str, code: jax.Array) -> jax.Array:
    """Returns the image of a modality that a code stands for."""
    return nets.coder.decode(params["generator"][modality], code)


def adversarial_loss(nets: Networks, params: Params, modality: str, x: jax.Array, truth: float) -> jax.Array:
    """Returns how far a modality's discriminator is from calling images x real (`truth` 1) or made (0); [B]."""
    return adversarial("lsgan", nets.discriminator.apply(params["discriminator"][modality], {}, x)[0], truth)


def generator_terms(
    nets: Networks, extras: ExtraTerms, window: Window, params: Params, batch: Batch, key: jax.Array | None
) -> Terms:
    """Returns the generators' terms of both directions, unweighted; without a key by the means of codes."""
    images = network_inputs(window, batch)

    def one_way(source: str, to: str) -> Terms:
        x = images[source]
        code, sample = encode(nets, params, source, x, key, 0)
        fake = decode(nets, params, to, sample)
        code_of_fake, sample_of_fake = encode(nets, params, to, fake, key, 1)
        back = decode(nets, params, source, sample_of_fake)
        return {
            "adversarial": adversarial_loss(nets, params, to, fake, 1.0),
            "reconstruction": mae(decode(nets, params, source, sample), x),
            "kl": jnp.square(code).mean((1, 2, 3)),
            "cycle": mae(back, x),
            "cycle_kl": jnp.square(code_of_fake).mean((1, 2, 3)),
            **extras.terms(Direction(to, x, fake, back), batch),
        }

    return add_terms(one_way(*way) for way in DIRECTIONS)


def discriminator_terms(nets: Networks, window: Window, params: Params, batch: Batch, key: jax.Array | None) -> Terms:
    """Returns the discriminators' loss of both directions, against generators at rest."""
    images = network_inputs(window, batch)

    def one_way(source: str, to: str) -> Terms:
        _, sample = encode(nets, params, source, images[source], key, 0)
        fake = jax.lax.stop_gradient(decode(nets, params, to, sample))
        of_fake = adversarial_loss(nets, params, to, fake, 0.0)
        return {"discriminator": of_fake + adversarial_loss(nets, params, to, images[to], 1.0)}

    return add_terms(one_way(*way) for way in DIRECTIONS)
