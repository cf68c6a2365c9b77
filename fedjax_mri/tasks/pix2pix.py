"""Paired translation of one modality into the other (system E): pix2pix (Isola et al. 2017), as two phases.

Batches hold the CT and the MR of the same patients; see `translation.py`. For a source x, the truth y, the generator G
and the discriminator D, which sees both images of a pair:

    1. discriminator   (gan(D(x, G(x)), made) + gan(D(x, y), real)) / 2     moves D, G(x) at rest
    2. generator       gan(D(x, G(x)), real) + l1 |G(x) - y| + extras       moves G against the new D

The reference makes G(x) once for both. G rests in phase 1, so making it again gives the same image if the same values
are dropped: phase 1 leaves its key in the carry for phase 2. Statistics of BatchNorm follow the reference: G's are
recorded once, D's in each of its passes, which see made, real and again made pairs.

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
from fedjax_mri.metrics.image import mae
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net
from fedjax_mri.nets.translation import PatchGANSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.tasks.extras import Extras, Way
from fedjax_mri.tasks.losses import GAN, adversarial
from fedjax_mri.tasks.task import Batch, Carry, Loss, Model, Params, Phase, Task, mean
from fedjax_mri.tasks.translation import Kept, Terms, check_weights, moves, objective, tally, task
from fedjax_mri.tasks.units import DIRECTIONS, Images, Window, seen


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
    discriminators: Kept = "average"  # averaged by the server, or kept by the client

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Task:
        """The task for images [H, W, C]; there are no classes. Raises UserError on impossible settings."""
        del classes
        check_weights(self, "l1")
        for name in ("cycle_perceptual", "hu_bounds" if self.to == "mr" else "biophysical"):
            if name in self.extras.weights():
                raise UserError(f"task.extras.{name}: pix2pix to {self.to} alone has no such term; set it to 0")
        pair = (*image[:2], 2 * image[2])
        return pix2pix(self, self.generator.build(image, compute), self.discriminator.build(pair, compute))


def pix2pix(settings: Pix2Pix, generator: Net, discriminator: Net) -> Task:
    """The task of translating one way by nets as `nets/translation.py` has them; the discriminator sees pairs."""
    source, to = next(way for way in DIRECTIONS if way[1] == settings.to)
    extras = settings.extras.build(settings.window)
    weights = {"adversarial": 1.0, "l1": settings.l1, **extras.weights}

    def init(key: jax.Array) -> Model:
        nets = {"generator": generator, "discriminator": discriminator}
        models = {name: net.init(own) for (name, net), own in zip(nets.items(), jax.random.split(key))}
        params, carry = ({name: model[part] for name, model in models.items()} for part in (0, 1))
        return Model(params, {**carry, "key": jax.random.key_data(key)})

    def make(params: Params, carry: Carry, batch: Batch, key: jax.Array | None) -> tuple[Way, Carry]:
        images, own = seen(settings.window, batch), (params["generator"], carry["generator"])
        made, kept = generator.apply(*own, images[source], batch["weight"], key is not None, key)
        return Way(to, images[source], made, truth=images[to]), {**carry, "generator": kept}

    def judge(
        params: Params, carry: Carry, way: Way, y: jax.Array, truth: float, weight: jax.Array, train: bool
    ) -> tuple[jax.Array, Carry]:
        pair, own = jnp.concatenate([way.source, y], -1), (params["discriminator"], carry["discriminator"])
        scores, kept = discriminator.apply(*own, pair, weight, train)
        return adversarial(settings.gan, scores, truth), {**carry, "discriminator": kept}

    def true(batch: Batch) -> jax.Array:
        return seen(settings.window, batch)[to]

    def discriminate(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        way, _ = make(params, carry, batch, key)
        still = jax.lax.stop_gradient(way.made)
        made, carry = judge(params, carry, way, still, 0.0, batch["weight"], True)
        real, carry = judge(params, carry, way, true(batch), 1.0, batch["weight"], True)
        terms = {"discriminator": (made + real) / 2}
        carry = {**carry, "key": jax.random.key_data(key)}
        return mean(terms["discriminator"], batch["weight"]), (carry, tally(terms, batch["weight"]))

    def generate(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        way, carry = make(params, carry, batch, jax.random.wrap_key_data(carry["key"]))
        adversary, carry = judge(params, carry, way, way.made, 1.0, batch["weight"], True)
        terms = {"adversarial": adversary, "l1": mae(way.made, true(batch)), **extras.terms(way, batch)}
        return mean(objective(weights, terms), batch["weight"]), (carry, tally(terms, batch["weight"]))

    def terms(params: Params, carry: Carry, batch: Batch) -> Terms:
        way, _ = make(params, carry, batch, None)
        found = {"l1": mae(way.made, true(batch)), **extras.terms(way, batch)}
        ask = partial(judge, params, carry, way, weight=batch["weight"], train=False)
        wished, made, real = (ask(y, truth)[0] for y, truth in ((way.made, 1.0), (way.made, 0.0), (true(batch), 1.0)))
        return {"adversarial": wished, **found, "discriminator": (made + real) / 2}

    def translate(params: Params, carry: Carry, images: Images, key: jax.Array | None) -> Images:
        if source not in images:
            return {}
        return {to: generator.apply(params["generator"], carry["generator"], images[source], None, False, key)[0]}

    phases = (Phase(discriminate, moves("discriminator")), Phase(generate, moves("generator")))
    return task(settings.window, settings.discriminators, init, phases, terms, translate, "l1", (to,))
