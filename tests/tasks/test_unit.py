"""The UNIT task: the discriminators first, then coders against the new ones, with fresh noise in each phase."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stepping import kernels, stepped

from fedjax_mri.errors import UserError
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.unit import ScalesSettings, UNITSettings
from fedjax_mri.tasks.unit import UNIT, adam

IMAGE = (16, 16, 1)
CODER, DISCRIMINATOR = UNITSettings(width=2, blocks=1), ScalesSettings(width=2, halvings=1, scales=2)
SMALL = UNIT(CODER, DISCRIMINATOR, window=None)
RATE = 1e-3


def batch(seed: int, count: int = 1) -> dict[str, jax.Array]:
    """Noise in 0..1, the MR in its upper half."""
    ct, mr = jax.random.uniform(jax.random.key(seed), (2, count, *IMAGE))
    return {"ct": ct, "mr": mr / 2 + 0.5, "weight": jnp.ones(count)}


class Reference:
    """The release's updates, a line for each of its own; Adam with L2 in the gradient."""

    def __init__(self, params) -> None:
        self.coder, self.judge = CODER.build(IMAGE, Compute("xla")), DISCRIMINATOR.build(IMAGE, Compute("xla"))
        self.g, self.d = params["generator"], params["discriminator"]
        self.adam = optax.adam(RATE, b1=0.5)
        self.state_g, self.state_d = self.adam.init(self.g), self.adam.init(self.d)
        self.grad_g, self.grad_d = (jax.jit(jax.grad(loss)) for loss in (self.gen_loss, self.dis_loss))

    def noisy(self, code, key, number):
        return code + jax.random.normal(jax.random.fold_in(key, number), code.shape)

    def dis_loss(self, d, g, ct, mr, key):
        z_ct = self.noisy(self.coder.encode(g["ct"], ct), key, 0)
        z_mr = self.noisy(self.coder.encode(g["mr"], mr), key, 2)
        fakes, loss = {"ct": self.coder.decode(g["ct"], z_mr), "mr": self.coder.decode(g["mr"], z_ct)}, jnp.float32(0)
        for name, fake, real in (("ct", fakes["ct"], ct), ("mr", fakes["mr"], mr)):
            for made, true in zip(*(self.judge.apply(d[name], {}, x)[0] for x in (fake, real))):
                loss += jnp.mean(made**2) + jnp.mean((true - 1) ** 2)
        return loss

    def gen_loss(self, g, d, ct, mr, key):
        encode, decode = self.coder.encode, self.coder.decode
        h_ct, h_mr = encode(g["ct"], ct), encode(g["mr"], mr)
        z_ct, z_mr = self.noisy(h_ct, key, 0), self.noisy(h_mr, key, 2)
        recon_ct, recon_mr = decode(g["ct"], z_ct), decode(g["mr"], z_mr)
        fake_ct, fake_mr = decode(g["ct"], z_mr), decode(g["mr"], z_ct)
        again_mr, again_ct = encode(g["ct"], fake_ct), encode(g["mr"], fake_mr)
        back_ct = decode(g["ct"], self.noisy(again_ct, key, 3))
        back_mr = decode(g["mr"], self.noisy(again_mr, key, 1))
        off = lambda a, b: jnp.mean(jnp.abs(a - b))  # noqa: E731
        loss = 10 * (off(recon_ct, ct) + off(recon_mr, mr) + off(back_ct, ct) + off(back_mr, mr))
        loss += 0.01 * sum(jnp.mean(h**2) for h in (h_ct, h_mr, again_ct, again_mr))
        for name, fake in (("ct", fake_ct), ("mr", fake_mr)):
            loss += sum(jnp.mean((s - 1) ** 2) for s in self.judge.apply(d[name], {}, fake)[0])
        return loss

    def moved(self, params, grads, state):
        grads = jax.tree.map(lambda g, p: g + 1e-4 * p, grads, params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = self.adam.update(grads, state)
        return optax.apply_updates(params, updates), state

    def dis_update(self, ct, mr, key) -> None:
        grads = self.grad_d(self.d, self.g, ct, mr, jax.random.fold_in(key, 0))
        self.d, self.state_d = self.moved(self.d, grads, self.state_d)

    def gen_update(self, ct, mr, key) -> None:
        grads = self.grad_g(self.g, self.d, ct, mr, jax.random.fold_in(key, 1))
        self.g, self.state_g = self.moved(self.g, grads, self.state_g)


def test_the_discriminators_move_first_and_then_the_coders_against_the_new_ones() -> None:
    task = SMALL.build(IMAGE, 0, Compute("xla"))
    start, batches = task.init(jax.random.key(0)), [batch(number) for number in range(3)]
    keys = [jax.random.fold_in(jax.random.key(1), number) for number in range(3)]
    model = stepped(task, start, adam(jnp.float32(RATE)), batches, keys)
    reference, other = Reference(start.params), Reference(start.params)
    other.grad_g, other.grad_d = reference.grad_g, reference.grad_d
    for one, key in zip(batches, keys):
        ct, mr = 2 * one["ct"] - 1, 2 * one["mr"] - 1
        for player, order in ((reference, ("dis_update", "gen_update")), (other, ("gen_update", "dis_update"))):
            for update in order:
                getattr(player, update)(ct, mr, key)
    wanted, wrong = ({"generator": r.g, "discriminator": r.d} for r in (reference, other))
    assert_close(model.params, wanted)
    with pytest.raises(AssertionError):
        assert_close(model.params, wrong)


def assert_close(actual, wanted) -> None:
    for name, leaf in kernels(wanted).items():
        np.testing.assert_allclose(kernels(actual)[name], leaf, atol=2e-5, err_msg=name)


def test_use_is_without_noise_and_needs_one_modality() -> None:
    task = SMALL.build(IMAGE, 0, Compute("xla"))
    model, data = task.init(jax.random.key(0)), batch(0, 2)
    predict, sums = jax.jit(task.predict), jax.jit(task.evaluate)(*model, data)
    made = predict(*model, data)
    back = predict(*model, made)
    cycle = sum(float(2 * jnp.abs(back[name] - data[name]).mean()) for name in ("ct", "mr"))
    assert -float(task.score(sums)) == pytest.approx(cycle, rel=1e-4)
    assert set(jax.eval_shape(task.predict, *model, {"mr": data["mr"]})) == {"ct"}
    assert set(task.summary(sums)) == {
        "adversarial", "reconstruction", "kl", "cycle", "cycle_kl", "discriminator"
    }  # fmt: skip


@pytest.mark.parametrize(("discriminators", "travels"), [("average", True), ("local", False)])
def test_what_travels(discriminators, travels) -> None:
    task = dataclasses.replace(SMALL, discriminators=discriminators).build(IMAGE, 0, Compute("xla"))
    shared = task.shared(jax.eval_shape(task.init, jax.random.key(0))).params
    assert set(jax.tree.leaves(shared["generator"])) == {True}
    assert set(jax.tree.leaves(shared["discriminator"])) == {travels}


def test_negative_weights_are_refused() -> None:
    with pytest.raises(UserError, match="cycle_kl=-1"):
        dataclasses.replace(SMALL, cycle_kl=-1).build(IMAGE, 0, Compute("xla"))
