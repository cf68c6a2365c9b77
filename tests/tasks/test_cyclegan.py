"""The CycleGAN task: one sum moves all players as the reference's alternation does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from described import described

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.phantom.physics import NAMES
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.tasks.cyclegan import CycleGAN
from fedjax_mri.tasks.extras import Extras
from fedjax_mri.tasks.task import Task
from fedjax_mri.tasks.translation import adam, augmented

IMAGE = (16, 16, 1)
apply_updates = jax.jit(optax.apply_updates)
GENERATOR, DISCRIMINATOR = GeneratorSettings(width=4, blocks=1), PatchGANSettings(width=4, halvings=1)
SMALL = CycleGAN(GENERATOR, DISCRIMINATOR, window=(-200.0, 200.0), pool=2)


@functools.cache  # and with it what is compiled of it
def small() -> Task:
    return SMALL.build(described(IMAGE), Compute("xla"))


def batch(seed: int, count: int = 1) -> dict[str, jax.Array]:
    """Noise: CT in HU within the window, MR in 0..1 and mostly bright."""
    ct, mr = np.random.default_rng(seed).uniform(-1, 1, (2, count, *IMAGE)).astype(np.float32)
    return {"ct": jnp.asarray(200 * ct), "mr": jnp.asarray(mr / 4 + 0.65), "weight": jnp.ones(count)}


class ListPool:
    """The reference's pool, a list; what it leaves to chance is decided by the task's key."""

    def __init__(self, size: int) -> None:
        self.size, self.images = size, []

    def query(self, images, key) -> np.ndarray:
        shown = []
        for image, own in zip(np.asarray(images), jax.random.split(key, len(images))):
            place = int(jax.random.randint(jax.random.fold_in(own, 0), (), 0, self.size))
            if len(self.images) < self.size:
                self.images.append(image)
                shown.append(image)
            elif bool(jax.random.bernoulli(jax.random.fold_in(own, 1))):
                shown.append(self.images[place])
                self.images[place] = image
            else:
                shown.append(image)
        return np.stack(shown)


class Reference:
    """The alternating updates of the original: generators first, with the discriminators at rest, then the others."""

    def __init__(self, params) -> None:
        self.generate = jax.jit(lambda p, x: GENERATOR.build(IMAGE, Compute("xla")).apply(p, {}, x)[0])
        self.judge = lambda p, x: DISCRIMINATOR.build(IMAGE, Compute("xla")).apply(p, {}, x)[0]
        self.g, self.d = params["generator"], params["discriminator"]
        adam = optax.adam(2e-4, b1=0.5)
        self.state_g, self.state_d = adam.init(self.g), adam.init(self.d)
        self.update = jax.jit(adam.update)
        self.grad_g = jax.jit(jax.grad(self.generators, has_aux=True))
        self.grad_d = jax.jit(jax.grad(self.discriminators))
        self.pools = {to: ListPool(2) for to in ("ct", "mr")}

    def generators(self, g, d, ct, mr):
        fake_mr, fake_ct = self.generate(g["mr"], ct), self.generate(g["ct"], mr)
        adversarial = jnp.mean((self.judge(d["mr"], fake_mr) - 1) ** 2 + (self.judge(d["ct"], fake_ct) - 1) ** 2)
        cycle = jnp.mean(jnp.abs(self.generate(g["ct"], fake_mr) - ct) + jnp.abs(self.generate(g["mr"], fake_ct) - mr))
        same = jnp.mean(jnp.abs(self.generate(g["mr"], mr) - mr) + jnp.abs(self.generate(g["ct"], ct) - ct))
        return adversarial + 10 * cycle + 5 * same, {"ct": fake_ct, "mr": fake_mr}

    def discriminators(self, d, real, shown):
        def one(to):
            return jnp.mean((self.judge(d[to], real[to]) - 1) ** 2) + jnp.mean(self.judge(d[to], shown[to]) ** 2)

        return one("ct") / 2 + one("mr") / 2

    def step(self, batch, key) -> None:
        batch = {"ct": batch["ct"] / 200, "mr": 2 * batch["mr"] - 1}
        grads, fakes = self.grad_g(self.g, self.d, batch["ct"], batch["mr"])
        with jax.numpy_dtype_promotion("standard"):
            updates, self.state_g = self.update(grads, self.state_g)
        self.g = apply_updates(self.g, updates)
        shown = {}
        for number, to in enumerate(("ct", "mr")):
            shown[to] = self.pools[to].query(fakes[to], jax.random.fold_in(key, number))
        grads = self.grad_d(self.d, {to: batch[to] for to in shown}, shown)
        with jax.numpy_dtype_promotion("standard"):
            updates, self.state_d = self.update(grads, self.state_d)
        self.d = apply_updates(self.d, updates)


def kernels(tree) -> list[tuple[str, jax.Array]]:
    """Leaves but for biases: a norm takes those out again, and Adam makes full steps of their gradient's rounding."""
    named = ((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))
    return [(name, leaf) for name, leaf in named if "kernel" in name]


def test_one_sum_moves_the_players_as_the_alternating_reference_does() -> None:
    task = small()
    model, optimizer = jax.jit(task.init)(jax.random.key(0)), adam(jnp.float32(2e-4))
    params, carry, reference = model.params, model.carry, Reference(model.params)
    gradient = jax.jit(jax.grad(task.phases[0].loss, has_aux=True))
    with jax.numpy_dtype_promotion("standard"):
        state, update = optimizer.init(params), jax.jit(optimizer.update)
    for number in range(5):
        key = jax.random.fold_in(jax.random.key(1), number)
        grads, (carry, _) = gradient(params, carry, batch(number), key)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update(grads, state)
        params = apply_updates(params, updates)
        reference.step(batch(number), key)
    wanted = {"generator": reference.g, "discriminator": reference.d}
    start = dict(kernels(model.params))
    for (name, actual), (_, expected) in zip(kernels(params), kernels(wanted), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5, err_msg=name)
        assert np.abs(np.asarray(actual) - np.asarray(start[name])).max() > 2e-4, name
    for to, pool in reference.pools.items():
        np.testing.assert_allclose(carry["pool"][to].images, np.stack(pool.images), atol=1e-5)
    fakes, probe = jax.jit(task.predict)(params, carry, batch(9)), batch(9)
    mr = reference.generate(reference.g["mr"], probe["ct"] / 200)
    ct = reference.generate(reference.g["ct"], 2 * probe["mr"] - 1)
    np.testing.assert_allclose(fakes["mr"], (mr + 1) / 2, atol=1e-5)
    np.testing.assert_allclose(fakes["ct"], 200 * ct, atol=2e-3)


def test_evaluation_is_by_its_terms() -> None:
    task = small()
    model, data = jax.jit(task.init)(jax.random.key(0)), batch(0, 2)
    predict, sums = jax.jit(task.predict), jax.jit(task.evaluate)(*model, data)
    back = predict(*model, predict(*model, data))
    scale = {"ct": 200, "mr": 1 / 2}  # of one in -1..1
    cycle = sum(float(jnp.abs(back[name] - data[name]).mean() / scale[name]) for name in scale)
    figures = task.summary(sums)
    assert figures["cycle"] == pytest.approx(cycle, rel=1e-5)
    assert float(task.score(sums)) == pytest.approx(-cycle, rel=1e-5)
    of_pairs = {name for name in figures if "/" in name}
    assert set(figures) - of_pairs == {"adversarial", "cycle", "identity", "discriminator"}
    assert {"mr/ssim", "ct/mae HU"} <= of_pairs


@pytest.mark.parametrize(("discriminators", "travels"), [("average", True), ("local", False)])
def test_what_travels(discriminators, travels) -> None:
    task = CycleGAN(GENERATOR, DISCRIMINATOR, discriminators=discriminators).build(described(IMAGE), Compute("xla"))
    shared = task.shared(jax.eval_shape(task.init, jax.random.key(0)))
    assert all(jax.tree.leaves(shared.params["generator"]))
    assert set(jax.tree.leaves(shared.params["discriminator"])) == {travels}
    assert not any(jax.tree.leaves(shared.carry))


def test_who_is_whose_pair_changes_nothing() -> None:
    task = small()
    model, evaluate, data = jax.jit(task.init)(jax.random.key(0)), jax.jit(task.evaluate), batch(0, 2)
    ours, theirs = (evaluate(*model, one) for one in (data, {**data, "mr": data["mr"][::-1]}))
    assert float(ours.pop("made")["mr"]["mae"]) != pytest.approx(float(theirs.pop("made")["mr"]["mae"]), rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


def test_terms_of_weight_0_are_not_traced() -> None:
    def program(settings) -> str:
        task = settings.build(described(IMAGE), Compute("xla"))
        model = jax.eval_shape(task.init, jax.random.key(0))
        return str(jax.make_jaxpr(task.phases[0].loss)(*model, batch(0), jax.random.key(0)))

    idle = Extras(biophysical_norm="l2", encoder="no.such.function")
    assert program(SMALL) == program(dataclasses.replace(SMALL, extras=idle))


def test_extra_terms_are_added_by_their_weights() -> None:
    asked = Extras(biophysical=2.0, hu_bounds=3.0, gradient_difference=5.0)
    data = batch(0, 2) | {"signals": jax.random.uniform(jax.random.key(5), (2, len(NAMES)))}
    task = dataclasses.replace(SMALL, extras=asked).build(described(IMAGE), Compute("xla"))
    model = jax.jit(task.init)(jax.random.key(0))
    loss, (_, sums) = jax.jit(task.phases[0].loss)(*model, data, jax.random.key(1))
    its = task.summary(sums)
    ours = its["adversarial"] + its["discriminator"] + 10 * its["cycle"] + 5 * its["identity"]
    added = 2 * its["biophysical"] + 3 * its["hu_bounds"] + 5 * its["gradient_difference"]
    assert float(loss) == pytest.approx(ours + added, rel=1e-5)
    assert len(its) == 7 and min(its.values()) > 0


@pytest.mark.parametrize("name", ["cycle", "identity", "pool"])
def test_negative_weights_are_refused(name) -> None:
    with pytest.raises(UserError, match=f"task.{name}=-1"):
        CycleGAN(**{name: -1}).build(described((64, 64, 1)), Compute("xla"))


def test_ct_and_mr_are_seen_through_one_random_view() -> None:
    """A registered pair stays registered, HU beyond the window stay HU, and what is around it is air."""
    pair = batch(0, 4)
    grey = pair["mr"]
    pair = pair | {"ct": 2000 * grey - 1000}
    views = Augment(flip=0.5, rotate_deg=30, zoom=0.2)
    moved = jax.jit(functools.partial(augmented, (-200.0, 200.0), views))(pair, jax.random.key(3))
    gap = np.abs(moved["ct"] - (2000 * moved["mr"] - 1000))  # air is -1024 HU, and black would be -1000
    assert gap.max() < 24.1 and np.mean(gap < 0.1) > 0.5
    assert (
        float(moved["ct"].min()) < -1023
        and float(jnp.abs(moved["mr"] - grey).max()) > 0.1
        and float(moved["ct"].max()) > 700
    )
    assert not np.allclose(moved["mr"][0] - grey[0], moved["mr"][1] - grey[1])


def test_augmentation_is_of_training_alone_and_changes_no_intensities() -> None:
    views, data, key = Augment(flip=1.0), batch(0), jax.random.key(1)
    plain = small()
    task = dataclasses.replace(SMALL, augment=views).build(described(IMAGE), Compute("xla"))
    model = jax.jit(task.init)(jax.random.key(0))
    flipped = data | {name: data[name][:, :, ::-1] for name in ("ct", "mr")}
    loss = [jax.jit(one.phases[0].loss)(*model, x, key)[0] for one, x in ((task, data), (plain, flipped))]
    np.testing.assert_allclose(*loss, rtol=1e-4)
    np.testing.assert_array_equal(*(jax.jit(one.predict)(*model, data)["mr"] for one in (task, plain)))
    with pytest.raises(UserError, match="set brightness and contrast to 0"):
        dataclasses.replace(SMALL, augment=Augment(brightness=0.1)).build(described(IMAGE), Compute("xla"))
