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
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.metrics.image import mae
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net
from fedjax_mri.nets.unit import Autoencoder, ScalesSettings, UNITSettings
from fedjax_mri.tasks.extras import Extras, Way
from fedjax_mri.tasks.losses import adversarial
from fedjax_mri.tasks.task import Batch, Carry, Loss, Model, Params, Phase, Task, mean
from fedjax_mri.tasks.translation import Kept, Terms, check_weights, moves, objective, summed, tally, task
from fedjax_mri.tasks.units import DIRECTIONS, MODALITIES, Images, Window, seen


@dataclass(frozen=True)
class UNIT:
    """Settings of the translation task; local.optimizer="fedjax_mri.tasks.unit.adam", at 1e-4."""

    generator: Any = field(default_factory=UNITSettings)
    discriminator: Any = field(default_factory=ScalesSettings)  # or PatchGANSettings
    window: Window = (-100.0, 300.0)  # HU; None: CT is a picture in 0..1
    gan: float = 1.0  # weight of the adversarial term, LSGAN
    reconstruction: float = 10.0
    kl: float = 0.01
    cycle: float = 10.0
    cycle_kl: float = 0.01
    extras: Extras = field(default_factory=Extras)
    discriminators: Kept = "average"  # averaged by the server, or kept by the client

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Task:
        """The task for images [H, W, C]; there are no classes. Raises UserError on impossible settings."""
        del classes
        check_weights(self, "gan", "reconstruction", "kl", "cycle", "cycle_kl")
        return unit(self, self.generator.build(image, compute), self.discriminator.build(image, compute))


def adam(rate: jax.Array) -> optax.GradientTransformation:
    """Adam with the release's moments, and its L2 of 1e-4 on the weights as part of the gradient."""
    return optax.chain(optax.add_decayed_weights(1e-4), optax.adam(rate, b1=0.5, b2=0.999))


def unit(settings: UNIT, coder: Autoencoder, discriminator: Net) -> Task:
    """The task of translating both ways through a code."""
    extras = settings.extras.build(settings.window)
    weights = {"adversarial": settings.gan, "reconstruction": settings.reconstruction, "kl": settings.kl}
    weights |= {"cycle": settings.cycle, "cycle_kl": settings.cycle_kl, **extras.weights}

    def init(key: jax.Array) -> Model:
        keys = jax.random.split(key, (2, 2))
        coders = {name: coder.init(own) for name, own in zip(MODALITIES, keys[0])}
        judges = {name: discriminator.init(own)[0] for name, own in zip(MODALITIES, keys[1])}
        return Model({"generator": coders, "discriminator": judges}, {})

    def judge(params: Params, name: str, x: jax.Array, truth: float) -> jax.Array:
        return adversarial("lsgan", discriminator.apply(params["discriminator"][name], {}, x)[0], truth)

    def encode(params: Params, name: str, x: jax.Array, key: jax.Array | None, draw: int) -> tuple[jax.Array, ...]:
        """The mean of x's code, and a sample of it (the mean once more without a key)."""
        code = coder.encode(params["generator"][name], x)
        if key is None:
            return code, code
        own = jax.random.fold_in(key, 2 * MODALITIES.index(name) + draw)
        return code, code + jax.random.normal(own, code.shape, code.dtype)

    def decode(params: Params, name: str, code: jax.Array) -> jax.Array:
        return coder.decode(params["generator"][name], code)

    def generators(params: Params, batch: Batch, key: jax.Array | None) -> Terms:
        images = seen(settings.window, batch)

        def one_way(source: str, to: str) -> Terms:
            x = images[source]
            code, sample = encode(params, source, x, key, 0)
            fake = decode(params, to, sample)
            again, resample = encode(params, to, fake, key, 1)
            back = decode(params, source, resample)
            return {
                "adversarial": judge(params, to, fake, 1.0),
                "reconstruction": mae(decode(params, source, sample), x),
                "kl": jnp.square(code).mean((1, 2, 3)),
                "cycle": mae(back, x),
                "cycle_kl": jnp.square(again).mean((1, 2, 3)),
                **extras.terms(Way(to, x, fake, back), batch),
            }

        return summed(one_way(*way) for way in DIRECTIONS)

    def discriminators(params: Params, batch: Batch, key: jax.Array | None) -> Terms:
        images = seen(settings.window, batch)

        def one_way(source: str, to: str) -> Terms:
            _, sample = encode(params, source, images[source], key, 0)
            fake = jax.lax.stop_gradient(decode(params, to, sample))
            return {"discriminator": judge(params, to, fake, 0.0) + judge(params, to, images[to], 1.0)}

        return summed(one_way(*way) for way in DIRECTIONS)

    def discriminate(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        terms = discriminators(params, batch, key)
        loss = settings.gan * mean(terms["discriminator"], batch["weight"])
        return loss, (carry, tally(terms, batch["weight"]))

    def generate(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        terms = generators(params, batch, key)
        return mean(objective(weights, terms), batch["weight"]), (carry, tally(terms, batch["weight"]))

    def terms(params: Params, carry: Carry, batch: Batch) -> Terms:
        return generators(params, batch, None) | discriminators(params, batch, None)

    def translate(params: Params, carry: Carry, images: Images, key: jax.Array | None) -> Images:
        ways = [(source, to) for source, to in DIRECTIONS if source in images]
        return {to: decode(params, to, encode(params, source, images[source], key, 0)[1]) for source, to in ways}

    phases = (Phase(discriminate, moves("discriminator")), Phase(generate, moves("generator")))
    return task(settings.window, settings.discriminators, init, phases, terms, translate, "cycle", MODALITIES)
