"""Unpaired translation between CT and MR (systems A, C, E): CycleGAN (Zhu et al. 2017), as one phase.

Batches hold the CT and the MR of different patients; see `translation.py`. For each direction x -> y, with the
generators to_y and to_x and the discriminator D of y, images in -1..1:

    generators      (D(to_y(x)) - 1)^2 + cycle |to_x(to_y(x)) - x| + cycle identity |to_y(y) - y| + extras
    discriminator   ((D(y) - 1)^2 + D(pool(to_y(x)))^2) / 2

The reference moves the generators, then the discriminators on images made before that move. So the gradient of one sum
in which each term holds the other player still is the same step; and as Adam works element by element, one optimiser
for all four networks is the same as one for each.

Where a network has BatchNorm, which the reference's have not, its running statistics are those of real images: of x in
to_y, of y in D. What is made from made images is normalised by its own batch and leaves no trace.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.metrics.image import mae
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.tasks import image_pool
from fedjax_mri.tasks.extras import Direction, Extras, ExtraTerms, with_features
from fedjax_mri.tasks.image_pool import Pool
from fedjax_mri.tasks.intensities import DIRECTIONS, MODALITIES, Images, Window, network_inputs
from fedjax_mri.tasks.losses import adversarial
from fedjax_mri.tasks.task import Batch, Carry, Encoder, Loss, Model, Params, Phase, PyTree, Task, everything, mean
from fedjax_mri.tasks.translation import (
    DiscriminatorSharing,
    Terms,
    TranslationMethod,
    add_terms,
    apply_to_each,
    check_weights,
    image_shape,
    init_each,
    tally,
    task,
    weighted_sum,
)

# (modality, images just made [B, H, W, C]) -> images to show the discriminator, the pool afterwards
PoolExchange = Callable[[str, jax.Array], tuple[jax.Array, Any]]


@dataclass(frozen=True)
class CycleGAN:
    """Settings of the translation task; local.optimizer="fedjax_mri.tasks.translation.adam", at 2e-4."""

    generator: Any = field(default_factory=GeneratorSettings)  # or UNetSettings, DoubleUNetSettings
    discriminator: PatchGANSettings = field(default_factory=PatchGANSettings)
    window: Window = (-100.0, 300.0)  # HU; None: CT is a picture in 0..1
    cycle: float = 10.0  # weight of the cycle term
    identity: float = 0.5  # weight of the identity term, as a share of `cycle`
    extras: Extras = field(default_factory=Extras)
    augment: Augment = field(default_factory=Augment)  # CT and MR alike; of shape alone, not of brightness
    pool: int = 50  # images of each modality that a client remembers; 0: none
    discriminators: DiscriminatorSharing = "average"  # averaged by the server, or kept by the client

    def build(self, described: DataDescription, compute: Compute) -> Task:
        """Returns the task for images [H, W, C]; there are no classes. Raises UserError on impossible settings."""
        check_weights(self, "cycle", "identity", "pool")
        image = image_shape(described)
        nets = self.generator.build(image, compute), self.discriminator.build(image, compute)
        return with_features(self.extras, lambda encoder: cyclegan(self, *nets, image, encoder))


class Networks(NamedTuple):
    """One network for each player; params and carry hold its values for each modality."""

    generator: Net
    discriminator: Net


def cyclegan(
    settings: CycleGAN,
    generator: Net,
    discriminator: Net,
    image: tuple[int, int, int],
    encoder: Encoder | None = None,
) -> Task:
    """Returns the task of translating both ways by nets as `nets/translation.py` has them; images [H, W, C].

    `encoder` is for perceptual terms.
    """
    nets, extras = Networks(generator, discriminator), settings.extras.build(settings.window, encoder)
    weights = {"adversarial": 1.0, "cycle": settings.cycle, "identity": settings.cycle * settings.identity}
    weights |= {"discriminator": 1.0, **extras.weights}

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        def pool_exchange(to: str, fake: jax.Array) -> tuple[jax.Array, Pool]:
            own = jax.random.fold_in(key, MODALITIES.index(to))
            return image_pool.exchange(carry["pool"][to], fake, batch["weight"], own)

        terms, carry = both_ways(params, carry, batch, pool_exchange, key)
        return mean(weighted_sum(weights, terms), batch["weight"]), (carry, tally(terms, batch["weight"]))

    def terms(params: Params, carry: Carry, batch: Batch) -> Terms:
        return both_ways(params, carry, batch, lambda to, fake: (fake, None), None)[0]

    def both_ways(
        params: Params, carry: Carry, batch: Batch, pool_exchange: PoolExchange, key: jax.Array | None
    ) -> tuple[Terms, Carry]:
        images = network_inputs(settings.window, batch)
        model = Model(params, carry)
        ways = {
            to: one_way(nets, extras, model, batch, images, source, to, pool_exchange, key) for source, to in DIRECTIONS
        }
        after = {part: {to: memory[part] for to, (_, memory) in ways.items()} for part in carry}
        return add_terms(terms for terms, _ in ways.values()), after

    def translate(params: Params, carry: Carry, images: Images, key: jax.Array | None) -> Images:
        def make(source: str, to: str) -> jax.Array:
            own, noise = (params["generator"][to], carry["generator"][to]), noise_key(key, to)
            return generator.apply(*own, images[source], None, False, noise)[0]

        return {to: make(source, to) for source, to in DIRECTIONS if source in images}

    start = partial(init, nets, settings.pool, image)
    method = TranslationMethod(start, (Phase(loss, everything),), terms, translate, MODALITIES, "cycle")
    return task(settings.window, settings.discriminators, settings.augment, method)


def init(nets: Networks, pool: int, image: tuple[int, int, int], key: jax.Array) -> Model:
    """Returns networks of both players for each modality, drawn at random, and empty pools.

    Each pool has room for `pool` images [H, W, C].
    """
    keys = jax.random.split(key, (2, 2))
    models = {
        name: init_each(net, dict(zip(MODALITIES, own))) for (name, net), own in zip(nets._asdict().items(), keys)
    }
    params, carry = ({name: model[part] for name, model in models.items()} for part in (0, 1))
    return Model(params, {**carry, "pool": {to: image_pool.empty(pool, image) for to in MODALITIES}})


def noise_key(key: jax.Array | None, to: str, draw: int = 0) -> jax.Array | None:
    """Returns a key of its own for each direction, and for each of its translations in a step; None without a key."""
    return None if key is None else jax.random.fold_in(key, 2 * MODALITIES.index(to) + draw)


def one_way(
    nets: Networks,
    extras: ExtraTerms,
    model: Model,
    batch: Batch,
    images: Images,
    source: str,
    to: str,
    pool_exchange: PoolExchange,
    key: jax.Array | None,
) -> tuple[Terms, dict[str, PyTree]]:
    """Returns the terms of one direction, and the carry after it, by part.

    With a key they are as in training, without one as in use.

    No term moves two players: each depends on the other through `stop_gradient`.
    """
    (params, carry), weight, train = model, batch["weight"], key is not None
    own = params["discriminator"][to]

    def translate(name: str, draw: int, *x: jax.Array) -> tuple[list[jax.Array], PyTree]:
        noise = noise_key(key, to, draw)
        apply = partial(nets.generator.apply, params["generator"][name], carry["generator"][name])
        return apply_to_each(lambda x, weight: apply(x, weight, train, noise), weight, *x)

    def adversarial_loss(player: Params, x: jax.Array, truth: float) -> tuple[jax.Array, PyTree]:
        scores, statistics = nets.discriminator.apply(player, carry["discriminator"][to], x, weight, train)
        return adversarial("lsgan", scores, truth), statistics

    x, y = images[source], images[to]
    (fake, same), of_generator = translate(to, 2, x, y)
    (back,), _ = translate(source, 3, fake)
    shown, memory = pool_exchange(to, jax.lax.stop_gradient(fake))
    real, of_discriminator = adversarial_loss(own, y, 1.0)
    terms = {
        "adversarial": adversarial_loss(jax.lax.stop_gradient(own), fake, 1.0)[0],
        "cycle": mae(back, x),
        "identity": mae(same, y),
        "discriminator": (real + adversarial_loss(own, shown, 0.0)[0]) / 2,
    }
    terms |= extras.terms(Direction(to, x, fake, back), batch)
    return terms, {"generator": of_generator, "discriminator": of_discriminator, "pool": memory}
