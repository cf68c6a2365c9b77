"""The pix2pix task: the discriminator first, then the generator against the new one; pairs matter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from described import described
from stepping import Player, assert_close, critic, images, stepped, translator

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.tasks.extras import Extras
from fedjax_mri.tasks.pix2pix import Pix2Pix, pix2pix

SETTINGS = Pix2Pix("mr", window=(-200.0, 200.0), l1=1.0)  # not 100: beside that, the order hardly matters
G, D = translator(), critic()
ADAM = optax.adam(1e-2, b1=0.5)


def batch(seed: int) -> dict[str, np.ndarray]:
    """CT in HU within the window, and an MR that is dark where it is bright."""
    ct, noise = images(seed)
    return {"ct": 400 * ct - 200, "mr": 0.8 - 0.6 * ct + 0.1 * noise, "weight": np.ones(2, np.float32)}


class Reference:
    """One made image a step; cross entropies by their definition; Adam for each network."""

    def __init__(self, model) -> None:
        self.g, self.d = (Player(model.params[name], ADAM) for name in ("generator", "discriminator"))
        self.kept_g, self.kept_d = model.carry["generator"], model.carry["discriminator"]
        self.grad_g = jax.jit(jax.grad(self.generator_loss, has_aux=True))
        self.grad_d = jax.jit(jax.grad(self.discriminator_loss, has_aux=True))

    def chance(self, d, kept, x, y):
        scores, kept = D.apply(d, kept, jnp.concatenate([x, y], -1), None, True)
        return jax.nn.sigmoid(scores), kept

    def discriminator_loss(self, d, kept, x, y, fake):
        made, kept = self.chance(d, kept, x, fake)
        real, kept = self.chance(d, kept, x, y)
        return -(jnp.mean(jnp.log(1 - made)) + jnp.mean(jnp.log(real))) / 2, kept

    def generator_loss(self, g, d, kept_g, kept_d, x, y, key):
        fake, kept_g = G.apply(g, kept_g, x, None, True, key)
        made, kept_d = self.chance(d, kept_d, x, fake)
        return -jnp.mean(jnp.log(made)) + jnp.mean(jnp.abs(fake - y)), (kept_g, kept_d, fake)

    def discriminate(self, x, y, key) -> None:
        _, (_, _, fake) = self.grad_g(self.g.params, self.d.params, self.kept_g, self.kept_d, x, y, key)
        grads, self.kept_d = self.grad_d(self.d.params, self.kept_d, x, y, fake)
        self.d.move(grads)

    def generate(self, x, y, key) -> None:
        grads, (self.kept_g, self.kept_d, _) = self.grad_g(
            self.g.params, self.d.params, self.kept_g, self.kept_d, x, y, key
        )
        self.g.move(grads)


def test_the_discriminator_moves_first_and_then_the_generator_against_the_new_one() -> None:
    task = pix2pix(SETTINGS, G, D)
    start, batches = jax.jit(task.init)(jax.random.key(0)), [batch(number) for number in range(3)]
    keys = [jax.random.key(number) for number in range(3)]
    model = stepped(task, start, ADAM, batches, keys)
    reference, other = Reference(start), Reference(start)
    other.grad_g, other.grad_d = reference.grad_g, reference.grad_d
    for one, key in zip(batches, keys):
        given = one["ct"] / 200, 2 * one["mr"] - 1, jax.random.fold_in(key, 0)
        reference.discriminate(*given)
        reference.generate(*given)
        other.generate(*given)
        other.discriminate(*given)

    wanted, wrong = ({"generator": r.g.params, "discriminator": r.d.params} for r in (reference, other))
    assert_close(model.params, wanted)
    kept = {"generator": reference.kept_g, "discriminator": reference.kept_d}
    assert_close({name: model.carry[name] for name in kept}, kept)
    with pytest.raises(AssertionError):
        assert_close(model.params, wrong)
    used, _ = G.apply(reference.g.params, reference.kept_g, batch(9)["ct"] / 200)
    assert_close(task.predict(*model, {"ct": batch(9)["ct"]})["mr"], (used + 1) / 2)


def test_who_is_whose_pair_matters() -> None:
    task, data = pix2pix(SETTINGS, G, D), batch(0)
    model, evaluate = jax.jit(task.init)(jax.random.key(0)), jax.jit(task.evaluate)
    right, wrong = (evaluate(*model, one) for one in (data, {**data, "mr": data["mr"][::-1]}))
    made = task.predict(*model, {"ct": data["ct"]})["mr"]
    assert {name for name in task.summary(right) if "/" not in name} == {"adversarial", "l1", "discriminator"}
    assert float(-task.score(right)) == pytest.approx(float(2 * jnp.abs(made - data["mr"]).mean()), rel=1e-4)
    assert abs(float(right["l1"] - wrong["l1"])) > 1e-2


@pytest.mark.parametrize(("discriminators", "travels"), [("average", True), ("local", False)])
def test_what_travels(discriminators, travels) -> None:
    task = Pix2Pix(discriminators=discriminators).build(described((256, 256, 1)), Compute("xla"))
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
        dataclasses.replace(SETTINGS, **settings).build(described((256, 256, 1)), Compute("xla"))
