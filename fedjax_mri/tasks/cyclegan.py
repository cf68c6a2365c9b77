"""Unpaired translation between CT and MR (systems A, C, E): CycleGAN (Zhu et al. 2017), as one phase.

Batches hold "ct" and "mr", float32 [B, H, W, C] in -1..1, of different patients. For each direction x -> y, with the
generators to_y and to_x and the discriminator D of y:

    generators      (D(to_y(x)) - 1)^2 + cycle |to_x(to_y(x)) - x| + cycle identity |to_y(y) - y|
    discriminator   ((D(y) - 1)^2 + D(pool(to_y(x)))^2) / 2

The reference moves the generators, then the discriminators on images made before that move. So the gradient of one sum
in which each term holds the other player still is the same step; and as Adam works element by element, one optimiser
for all four networks is the same as one for each.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_mri import trees
from fedjax_mri.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.functional import Net
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.tasks import image_pool
from fedjax_mri.tasks.image_pool import Pool
from fedjax_mri.tasks.task import Batch, Carry, Metrics, Model, Params, Phase, Task, everything, mean

MODALITIES = ("ct", "mr")
DIRECTIONS = (("ct", "mr"), ("mr", "ct"))  # from, to

# (modality, images just made [B, H, W, C]) -> images to show the discriminator, what to remember
Recall = Callable[[str, jax.Array], tuple[jax.Array, Any]]


class Terms(NamedTuple):
    """What the players are judged by, both directions added: per example [B], or as weighted sums [...]."""

    adversarial: jax.Array  # squared error of the discriminators on made images, against 1
    cycle: jax.Array  # mean absolute error of images that went there and back
    identity: jax.Array  # mean absolute error of images that were of the wanted modality already
    discriminator: jax.Array  # the discriminators' own loss
    weight: jax.Array


@dataclass(frozen=True)
class CycleGAN:
    """Settings of the translation task; local.optimizer and its rate: see `adam`."""

    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    discriminator: PatchGANSettings = field(default_factory=PatchGANSettings)
    cycle: float = 10.0  # weight of the cycle term
    identity: float = 0.5  # weight of the identity term, as a share of `cycle`
    pool: int = 50  # images of each modality that a client remembers; 0: none
    discriminators: Literal["average", "local"] = "average"  # averaged by the server, or kept by the client

    def build(self, image: tuple[int, int, int], classes: int, compute: Compute) -> Task:
        """The task for images [H, W, C]; there are no classes. Raises UserError on impossible settings."""
        del classes
        if min(self.cycle, self.identity, self.pool) < 0:
            raise UserError(
                f"task.cycle={self.cycle}, task.identity={self.identity}, task.pool={self.pool}: give 0 or more of each"
            )
        return cyclegan(self, self.generator.build(image, compute), self.discriminator.build(image, compute), image)


def adam(rate: jax.Array) -> optax.GradientTransformation:
    """Adam as adversarial training wants it: local.optimizer="fedjax_mri.tasks.cyclegan.adam", rate 2e-4."""
    return optax.adam(rate, b1=0.5)


def cyclegan(settings: CycleGAN, generator: Net, discriminator: Net, image: tuple[int, int, int]) -> Task:
    """The task of translating both ways by nets whose apply takes (params, carry, x); images [H, W, C]."""

    def init(key: jax.Array) -> Model:
        nets = {"generator": generator, "discriminator": discriminator}
        keys = dict(zip(nets, jax.random.split(key, (2, 2))))
        params = {name: {to: net.init(k)[0] for to, k in zip(MODALITIES, keys[name])} for name, net in nets.items()}
        return Model(params, {to: image_pool.empty(settings.pool, image) for to in MODALITIES})

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        def recall(to: str, fake: jax.Array) -> tuple[jax.Array, Pool]:
            own = jax.random.fold_in(key, MODALITIES.index(to))
            return image_pool.exchange(carry[to], fake, batch["weight"], own)

        terms, carry = both_ways(generator, discriminator, params, batch, recall)
        generators = terms.adversarial + settings.cycle * (terms.cycle + settings.identity * terms.identity)
        return mean(generators + terms.discriminator, batch["weight"]), (carry, tally(terms))

    def evaluate(params: Params, carry: Carry, batch: Batch) -> Metrics:
        return tally(both_ways(generator, discriminator, params, batch, lambda to, fake: (fake, None))[0])

    def predict(params: Params, carry: Carry, batch: Batch) -> dict[str, jax.Array]:
        return {to: generator.apply(params["generator"][to], {}, batch[source])[0] for source, to in DIRECTIONS}

    def shared(model: Model) -> Any:
        travels = {"generator": True, "discriminator": settings.discriminators == "average"}
        params = {name: jax.tree.map(lambda _, name=name: travels[name], model.params[name]) for name in travels}
        return Model(params, jax.tree.map(lambda _: False, model.carry))

    return Task(init, (Phase(loss, everything),), evaluate, predict, shared, summary, score)


def both_ways(
    generator: Net, discriminator: Net, params: Params, batch: Batch, recall: Recall
) -> tuple[Terms, dict[str, Any]]:
    """The terms of both directions added, and what `recall` remembers of each modality."""
    ways = {to: one_way(generator, discriminator, params, batch, source, to, recall) for source, to in DIRECTIONS}
    (first, _), (second, _) = ways.values()
    terms = trees.add(first, second)._replace(weight=batch["weight"])
    return terms, {to: memory for to, (_, memory) in ways.items()}


def one_way(
    generator: Net, discriminator: Net, params: Params, batch: Batch, source: str, to: str, recall: Recall
) -> tuple[Terms, Any]:
    """Terms of one direction. No term moves two players: each sees the other through `stop_gradient`."""
    still = jax.lax.stop_gradient(params["discriminator"][to])

    def translate(to: str, x: jax.Array) -> jax.Array:
        return generator.apply(params["generator"][to], {}, x)[0]

    def judge(player: Params, x: jax.Array, truth: float) -> jax.Array:
        return jnp.square(discriminator.apply(player, {}, x)[0] - truth).mean((1, 2, 3))

    x, y = batch[source], batch[to]
    fake, same = jnp.split(translate(to, jnp.concatenate([x, y])), 2)
    shown, memory = recall(to, jax.lax.stop_gradient(fake))
    own = params["discriminator"][to]
    terms = Terms(
        adversarial=judge(still, fake, 1.0),
        cycle=jnp.abs(translate(source, fake) - x).mean((1, 2, 3)),
        identity=jnp.abs(same - y).mean((1, 2, 3)),
        discriminator=(judge(own, y, 1.0) + judge(own, shown, 0.0)) / 2,
        weight=batch["weight"],
    )
    return terms, memory


def tally(terms: Terms) -> Terms:
    """Weighted sums over a batch."""
    means = terms._replace(weight=jnp.ones_like(terms.weight))
    return jax.tree.map(lambda values: jnp.sum(values * terms.weight), means)


def summary(sums: Terms) -> dict[str, float]:
    """Mean terms, in the units of images in -1..1."""
    return {name: float(total / sums.weight) for name, total in sums._asdict().items() if name != "weight"}


def score(sums: Terms) -> jax.Array:
    """The cycle error, negated, [...]."""
    return -sums.cycle / sums.weight
