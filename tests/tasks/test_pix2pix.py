"""The pix2pix task: the discriminator first, then the generator against the new one; pairs matter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stepping import kernels, stepped

from fedjax_mri.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.translation import PatchGANSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.tasks.extras import Extras
from fedjax_mri.tasks.pix2pix import Pix2Pix

IMAGE = (16, 16, 1)
GENERATOR, DISCRIMINATOR = UNetSettings(depth=2, width=4), PatchGANSettings(width=4, halvings=1, norm="batch")
SMALL = Pix2Pix("mr", GENERATOR, DISCRIMINATOR, window=(-200.0, 200.0))
RATE = 1e-3


def batch(seed: int, count: int = 2) -> dict[str, jax.Array]:
    """CT in HU within the window, and an MR that is dark where it is bright."""
    ct = jax.random.uniform(jax.random.key(seed), (count, *IMAGE), minval=-200.0, maxval=200.0)
    return {"ct": ct, "mr": 0.5 - ct / 500, "weight": jnp.ones(count)}


class Reference:
    """One made image a step; cross entropies by their definition; Adam for each network."""

    def __init__(self, model) -> None:
        self.generator = GENERATOR.build(IMAGE, Compute("xla"))
        self.judge = DISCRIMINATOR.build((16, 16, 2), Compute("xla"))
        self.g, self.d = model.params["generator"], model.params["discriminator"]
        self.kept_g, self.kept_d = model.carry["generator"], model.carry["discriminator"]
        self.adam = optax.adam(RATE, b1=0.5)
        self.state_g, self.state_d = self.adam.init(self.g), self.adam.init(self.d)
        self.make = jax.jit(lambda g, kept, x, key: self.generator.apply(g, kept, x, jnp.ones(len(x)), True, key))
        self.grad_g = jax.jit(jax.grad(self.generator_loss, has_aux=True))
        self.grad_d = jax.jit(jax.grad(self.discriminator_loss, has_aux=True))

    def scores(self, d, kept, x, y):
        return self.judge.apply(d, kept, jnp.concatenate([x, y], -1), jnp.ones(len(x)), True)

    def discriminator_loss(self, d, kept, x, y, fake):
        made, kept = self.scores(d, kept, x, fake)
        real, kept = self.scores(d, kept, x, y)
        chance = jax.nn.sigmoid
        return -(jnp.mean(jnp.log(1 - chance(made))) + jnp.mean(jnp.log(chance(real)))) / 2, kept

    def generator_loss(self, g, d, kept_g, kept_d, x, y, key):
        fake, kept_g = self.generator.apply(g, kept_g, x, jnp.ones(len(x)), True, key)
        made, kept_d = self.scores(d, kept_d, x, fake)
        loss = -jnp.mean(jnp.log(jax.nn.sigmoid(made))) + 100 * jnp.mean(jnp.abs(fake - y))
        return loss, (kept_g, kept_d)

    def moved(self, params, grads, state):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = self.adam.update(grads, state)
        return optax.apply_updates(params, updates), state

    def discriminate(self, x, y, key) -> None:
        fake, _ = self.make(self.g, self.kept_g, x, key)
        grads, self.kept_d = self.grad_d(self.d, self.kept_d, x, y, fake)
        self.d, self.state_d = self.moved(self.d, grads, self.state_d)

    def generate(self, x, y, key) -> None:
        grads, (self.kept_g, self.kept_d) = self.grad_g(self.g, self.d, self.kept_g, self.kept_d, x, y, key)
        self.g, self.state_g = self.moved(self.g, grads, self.state_g)


def test_the_discriminator_moves_first_and_then_the_generator_against_the_new_one() -> None:
    task = SMALL.build(IMAGE, 0, Compute("xla"))
    start, batches = task.init(jax.random.key(0)), [batch(number) for number in range(3)]
    keys = [jax.random.fold_in(jax.random.key(1), number) for number in range(3)]
    model = stepped(task, start, optax.adam(RATE, b1=0.5), batches, keys)
    reference, other = Reference(start), Reference(start)
    other.grad_g, other.grad_d, other.make = reference.grad_g, reference.grad_d, reference.make
    for one, key in zip(batches, keys):
        x, y, key = one["ct"] / 200, 2 * one["mr"] - 1, jax.random.fold_in(key, 0)
        for player, order in ((reference, ("discriminate", "generate")), (other, ("generate", "discriminate"))):
            for phase in order:
                getattr(player, phase)(x, y, key)

    wanted, wrong = ({"generator": r.g, "discriminator": r.d} for r in (reference, other))
    kept = {"generator": reference.kept_g, "discriminator": reference.kept_d}
    assert_close(model.params, wanted)
    assert_close({name: model.carry[name] for name in kept}, kept)
    with pytest.raises(AssertionError):
        assert_close(model.params, wrong)
    made = jax.jit(task.predict)(*model, batch(9))["mr"]
    used, _ = reference.generator.apply(reference.g, reference.kept_g, batch(9)["ct"] / 200)
    np.testing.assert_allclose(made, (used + 1) / 2, atol=1e-4)


def assert_close(actual, wanted) -> None:
    for name, leaf in kernels(wanted).items():
        np.testing.assert_allclose(kernels(actual)[name], leaf, atol=2e-5, err_msg=name)


def test_who_is_whose_pair_matters() -> None:
    task = SMALL.build(IMAGE, 0, Compute("xla"))
    model, data, evaluate = task.init(jax.random.key(0)), batch(0), jax.jit(task.evaluate)
    right, wrong = (evaluate(*model, one) for one in (data, {**data, "mr": data["mr"][::-1]}))
    assert set(task.summary(right)) == {"adversarial", "l1", "discriminator"}
    made = jax.jit(task.predict)(*model, {"ct": data["ct"]})["mr"]
    assert float(-task.score(right)) == pytest.approx(float(2 * jnp.abs(made - data["mr"]).mean()), rel=1e-4)
    assert abs(float(right["l1"] - wrong["l1"])) > 1e-3


@pytest.mark.parametrize(("discriminators", "travels"), [("average", True), ("local", False)])
def test_what_travels(discriminators, travels) -> None:
    task = dataclasses.replace(SMALL, discriminators=discriminators).build(IMAGE, 0, Compute("xla"))
    shared = task.shared(jax.eval_shape(task.init, jax.random.key(0)))
    for part in shared:
        assert set(jax.tree.leaves(part["generator"])) == {True}
        assert set(jax.tree.leaves(part["discriminator"])) == {travels}
    assert shared.carry["key"] is False


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"l1": -1}, "task.l1=-1"),
        ({"window": (300.0, -100.0)}, "task.window"),
        ({"extras": Extras(cycle_perceptual=1.0)}, "cycle_perceptual"),
        ({"extras": Extras(hu_bounds=1.0)}, "hu_bounds"),
    ],
)
def test_impossible_settings_are_refused(settings, says) -> None:
    with pytest.raises(UserError, match=says):
        dataclasses.replace(SMALL, **settings).build(IMAGE, 0, Compute("xla"))
