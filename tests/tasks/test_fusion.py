"""The fusion task: heads that stay, modalities that are hidden, figures of each output, classical rules, volumes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from described import described

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.augment import Augment, Preprocess
from fedjax_mri.data.classical_fusion import pca
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.fusion import Cross, Late
from fedjax_mri.nets.volume import VolumeEncoder
from fedjax_mri.tasks.fusion import Fuse, modality_dropout, network_inputs

ENCODER = VolumeEncoder(widths=(4,))
NET = Cross(ENCODER, ENCODER, width=8, heads=1, hidden=8)
ONE = Late(("ct",), ENCODER, 8)
VOLUME = (2, 4, 4, 1)
HAS = jnp.asarray([[1, 1], [1, 0], [0, 1], [1, 1]], jnp.float32)


def batch(shape: tuple[int, ...] = VOLUME) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    ct = jnp.asarray(rng.integers(-200, 400, (4, *shape)).astype(np.int16))
    mr = jnp.asarray(rng.integers(0, 256, (4, *shape)).astype(np.uint8))
    return {"ct": ct, "mr": mr, "label": jnp.arange(4, dtype=jnp.int32) % 3, "weight": jnp.ones(4), "has": HAS}


def test_it_learns_and_its_figures_are_those_of_each_output_and_kind() -> None:
    task, data = Fuse(network=NET, heads="client").build(described(VOLUME, 3), Compute("xla")), batch()
    model = jax.jit(task.init)(jax.random.key(0))

    def step(params, key):
        gradient, _ = jax.grad(task.phases[0].loss, has_aux=True)(params, model.carry, data, key)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), ()

    draw = lambda: jax.random.split(jax.random.key(1), 300)  # noqa: E731
    params = jax.jit(lambda params: jax.lax.scan(step, params, draw())[0])(model.params)
    sums = jax.jit(task.evaluate)(params, model.carry, data)
    figures = task.summary(sums)
    assert figures["accuracy"] == figures["server accuracy"] == 1 and task.score(sums) == 1
    assert {name: float(part.weight) for name, part in sums.parts.items()} == {
        "server": 4, "ct": 3, "mr": 3, "CT only": 1, "MR only": 1, "CT and MR": 2,
    }  # fmt: skip
    assert set(Tally._fields) <= trees.named(sums).keys()  # what a report reads
    chances = jax.jit(task.predict)(params, model.carry, data)
    np.testing.assert_allclose(task.tally(chances, data).nll, sums.nll, rtol=1e-4)
    wide = jax.eval_shape(task.shown, params, model.carry, data)["image"]
    assert wide.shape == (4, 4, 8, 1)


def test_only_a_head_of_ones_own_stays_at_home() -> None:
    for heads, count in (("shared", 0), ("client", 4)):
        task = Fuse(network=NET, heads=heads).build(described(VOLUME, 3), Compute())  # type: ignore[arg-type]
        model = jax.eval_shape(task.init, jax.random.key(0))
        stays = [path for path, travels in jax.tree.leaves_with_path(task.shared(model)) if not travels]
        assert len(stays) == count and all("'head']['own'" in jax.tree_util.keystr(path) for path in stays)


def test_one_of_two_modalities_is_hidden_never_the_only_one() -> None:
    has = jnp.repeat(HAS, 500, 0)
    found = np.asarray(jax.jit(modality_dropout, static_argnums=2)(jax.random.key(0), has, 0.4))
    np.testing.assert_array_equal(found[500:1500], has[500:1500])
    both = np.r_[found[:500], found[1500:]]
    assert both.max(1).min() == 1
    for share in (1 - both).mean(0):
        assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 1000)


def test_both_are_seen_in_their_window_and_changed_alike() -> None:
    settings, data = Fuse(network=NET, window=(0.0, 100.0), augment=Augment(flip=1.0)), batch()
    ct, mr, has = jax.jit(partial(network_inputs, settings))(data, jax.random.key(0))
    np.testing.assert_array_equal(has, HAS)
    np.testing.assert_allclose(ct, np.clip(np.asarray(data["ct"]) / 100, 0, 1)[..., ::-1, :], atol=1e-6)
    np.testing.assert_allclose(mr, np.asarray(data["mr"])[..., ::-1, :] / 255, atol=1e-6)


def test_a_classical_rule_makes_one_image_of_another_size() -> None:
    settings, data = Fuse(network=ONE, classical="pca", window=None, preprocess=Preprocess(size=2)), batch((2, 2, 1))
    one, _, has = jax.jit(partial(network_inputs, settings))({**data, "has": jnp.ones((4, 2))})
    ct, mr = np.clip(np.asarray(data["ct"], np.float32), 0, 1), np.asarray(data["mr"], np.float32) / 255
    np.testing.assert_allclose(one, pca(ct, mr), atol=1e-6)
    np.testing.assert_array_equal(has, np.tile([1.0, 0.0], (4, 1)))
    shapes = jax.eval_shape(partial(network_inputs, settings), batch())
    assert shapes[0].shape == shapes[1].shape == (4, 2, 2, 2, 1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"classical": "pca"}, "task.classical=pca"),
        ({"dropout": 1.5}, "task.dropout=1.5"),
        ({"auxiliary": -1.0}, "task.auxiliary=-1.0"),
        ({"window": (80.0, 0.0)}, "task.window"),
    ],
)
def test_impossible_settings_are_refused(settings, says) -> None:
    with pytest.raises(UserError, match=says):
        Fuse(network=NET, **settings).build(described(VOLUME, 3), Compute())
