"""The UNIT task: the discriminators first, then coders against the new ones, with fresh noise in each phase."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from described import described
from stepping import Player, assert_close, critic, images, numbers, stepped

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net
from fedjax_mri.nets.translation import PatchGANSettings
from fedjax_mri.nets.unit import Autoencoder, ScalesSettings, UNITSettings
from fedjax_mri.tasks.unit import UNIT, adam, unit

SETTINGS = UNIT(window=None)
RATE = 1e-2


def coder() -> Autoencoder:
    def init(key):
        return {"encoder": numbers(key, "scale", "shift"), "decoder": numbers(jax.random.fold_in(key, 1), "out", "off")}

    return Autoencoder(
        init,
        lambda params, x: params["encoder"]["scale"] * x + params["encoder"]["shift"],
        lambda params, code: jnp.tanh(params["decoder"]["out"] * code + params["decoder"]["off"]),
    )


def scales() -> Net:
    """The critic, and another look at half the values."""
    one = critic()

    def apply(params, carry, x):
        return [one.apply(params, {"mean": jnp.float32(0)}, scale)[0] for scale in (x, x / 2)], carry

    return Net(lambda key: (one.init(key)[0], {}), apply)


CODER, D = coder(), scales()


def batch(seed: int) -> dict[str, np.ndarray]:
    """Noise in 0..1, the MR in its upper half."""
    ct, mr = images(seed)
    return {"ct": ct, "mr": mr / 2 + 0.5, "weight": np.ones(2, np.float32)}


class Reference:
    """The release's updates, a line for each of its own; Adam with L2 in the gradient."""

    def __init__(self, params) -> None:
        def with_decay() -> optax.GradientTransformation:
            plain = optax.adam(RATE, b1=0.5)

            def update(grads, state, params):
                return plain.update(jax.tree.map(lambda g, p: g + 1e-4 * p, grads, params), state)

            return optax.GradientTransformation(plain.init, update)

        self.g, self.d = (Player(params[name], with_decay()) for name in ("generator", "discriminator"))
        self.grad_g, self.grad_d = (jax.jit(jax.grad(loss)) for loss in (self.gen_loss, self.dis_loss))

    def noisy(self, code, key, number):
        return code + jax.random.normal(jax.random.fold_in(key, number), code.shape)

    def dis_loss(self, d, g, ct, mr, key):
        z_ct = self.noisy(CODER.encode(g["ct"], ct), key, 0)
        z_mr = self.noisy(CODER.encode(g["mr"], mr), key, 2)
        fakes, loss = {"ct": CODER.decode(g["ct"], z_mr), "mr": CODER.decode(g["mr"], z_ct)}, jnp.float32(0)
        for name, fake, real in (("ct", fakes["ct"], ct), ("mr", fakes["mr"], mr)):
            for made, true in zip(*(D.apply(d[name], {}, x)[0] for x in (fake, real))):
                loss += jnp.mean(made**2) + jnp.mean((true - 1) ** 2)
        return loss

    def gen_loss(self, g, d, ct, mr, key):
        encode, decode = CODER.encode, CODER.decode
        h_ct, h_mr = encode(g["ct"], ct), encode(g["mr"], mr)
        z_ct, z_mr = self.noisy(h_ct, key, 0), self.noisy(h_mr, key, 2)
        recon_ct, recon_mr = decode(g["ct"], z_ct), decode(g["mr"], z_mr)
        fake_ct, fake_mr = decode(g["ct"], z_mr), decode(g["mr"], z_ct)
        again_mr, again_ct = encode(g["ct"], fake_ct), encode(g["mr"], fake_mr)
        back_ct = decode(g["ct"], self.noisy(again_ct, key, 3))
        back_mr = decode(g["mr"], self.noisy(again_mr, key, 1))

        def off(a, b):
            return jnp.mean(jnp.abs(a - b))

        loss = 10 * (off(recon_ct, ct) + off(recon_mr, mr) + off(back_ct, ct) + off(back_mr, mr))
        loss += 0.01 * sum(jnp.mean(h**2) for h in (h_ct, h_mr, again_ct, again_mr))
        for name, fake in (("ct", fake_ct), ("mr", fake_mr)):
            loss += sum(jnp.mean((s - 1) ** 2) for s in D.apply(d[name], {}, fake)[0])
        return loss

    def dis_update(self, ct, mr, key) -> None:
        self.d.move(self.grad_d(self.d.params, self.g.params, ct, mr, jax.random.fold_in(key, 0)))

    def gen_update(self, ct, mr, key) -> None:
        self.g.move(self.grad_g(self.g.params, self.d.params, ct, mr, jax.random.fold_in(key, 1)))


def test_the_discriminators_move_first_and_then_the_coders_against_the_new_ones() -> None:
    task = unit(SETTINGS, CODER, D)
    start, batches = jax.jit(task.init)(jax.random.key(0)), [batch(number) for number in range(3)]
    keys = [jax.random.key(number) for number in range(3)]
    model = stepped(task, start, adam(RATE), batches, keys)
    reference, other = Reference(start.params), Reference(start.params)
    other.grad_g, other.grad_d = reference.grad_g, reference.grad_d
    for one, key in zip(batches, keys):
        given = 2 * one["ct"] - 1, 2 * one["mr"] - 1, key
        reference.dis_update(*given)
        reference.gen_update(*given)
        other.gen_update(*given)
        other.dis_update(*given)
    wanted, wrong = ({"generator": r.g.params, "discriminator": r.d.params} for r in (reference, other))
    assert_close(model.params, wanted)
    with pytest.raises(AssertionError):
        assert_close(model.params, wrong)


def test_use_is_without_noise_and_needs_one_modality() -> None:
    task, data = unit(SETTINGS, CODER, D), batch(0)
    model = jax.jit(task.init)(jax.random.key(0))
    predict, sums = jax.jit(task.predict), jax.jit(task.evaluate)(*model, data)
    back = predict(*model, predict(*model, data))
    cycle = sum(float(2 * jnp.abs(back[name] - data[name]).mean()) for name in ("ct", "mr"))
    assert -float(task.score(sums)) == pytest.approx(cycle, rel=1e-4)
    assert set(jax.eval_shape(task.predict, *model, {"mr": data["mr"]})) == {"ct"}
    terms = {"adversarial", "reconstruction", "kl", "cycle", "cycle_kl", "discriminator"}
    assert {name for name in task.summary(sums) if "/" not in name} == terms


@pytest.mark.parametrize(("discriminators", "travels"), [("average", True), ("local", False)])
def test_what_travels(discriminators, travels) -> None:
    nets = UNITSettings(width=2, blocks=1), ScalesSettings(width=2, halvings=1, scales=2)
    task = UNIT(*nets, discriminators=discriminators).build(described((16, 16, 1)), Compute("xla"))
    model = jax.eval_shape(task.init, jax.random.key(0))
    shared = task.shared(model).params
    assert set(jax.tree.leaves(shared["generator"])) == {True}
    assert set(jax.tree.leaves(shared["discriminator"])) == {travels}
    data = {name: jnp.zeros((2, 16, 16, 1)) for name in ("ct", "mr")} | {"weight": jnp.ones(2)}
    for phase in task.phases:  # the true networks fit together
        assert jax.eval_shape(phase.loss, *model, data, jax.random.key(0))[0].shape == ()


def test_negative_weights_are_refused() -> None:
    with pytest.raises(UserError, match="cycle_kl=-1"):
        dataclasses.replace(SETTINGS, cycle_kl=-1).build(described((64, 64, 1)), Compute("xla"))


def test_a_discriminator_with_running_statistics_is_refused() -> None:
    settings, compute = UNIT(UNITSettings(width=2, blocks=1), PatchGANSettings(width=2, halvings=1)), Compute("xla")
    settings.build(described((16, 16, 1)), compute)
    with pytest.raises(UserError, match=r"choose --task\.discriminator\.norm instance"):
        dataclasses.replace(settings, discriminator=PatchGANSettings(2, 1, "batch")).build(
            described((16, 16, 1)), compute
        )
