"""The classification task: padding is nothing, BatchNorm's statistics travel or stay, evaluation is exact."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.data.augment import Augment, Preprocess
from fedjax_mri.errors import UserError
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.compute import Compute
from fedjax_mri.tasks.classify import Classify

SMALL = Classify(network=CNNSettings(widths=(8,), hidden=16))
BATCH = Classify(network=CNNSettings(widths=(8,), norm="batch"))


def batch(count: int = 4) -> dict[str, jax.Array]:
    pixels = jax.random.randint(jax.random.key(0), (count, 8, 8, 1), 0, 256).astype(jnp.uint8)
    return {"image": pixels, "label": jnp.arange(count, dtype=jnp.int32) % 3, "weight": jnp.ones(count)}


@pytest.mark.parametrize("settings", [SMALL, BATCH])
def test_padding_changes_neither_gradient_nor_carry(settings) -> None:
    task = settings.build((8, 8, 1), 3, Compute())
    model, full = jax.jit(task.init)(jax.random.key(1)), batch()
    padded = {name: jnp.concatenate([field, field]) for name, field in full.items()}
    padded["weight"] = jnp.repeat(jnp.array([1.0, 0.0]), 4)

    gradient = jax.jit(jax.grad(task.phases[0].loss, has_aux=True))
    full, padded = (gradient(*model, one, jax.random.key(2)) for one in (full, padded))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), full, padded)


@pytest.mark.parametrize(("statistics", "travels"), [("average", True), ("local", False)])
def test_statistics_travel_or_stay(statistics, travels) -> None:
    task = dataclasses.replace(BATCH, statistics=statistics).build((8, 8, 1), 3, Compute())
    shared = task.shared(task.init(jax.random.key(0)))
    assert all(jax.tree.leaves(shared.params))
    assert set(jax.tree.leaves(shared.carry)) == {travels}


def test_it_can_learn_four_images_by_heart() -> None:
    task = SMALL.build((8, 8, 1), 3, Compute())
    model, data = task.init(jax.random.key(0)), batch()
    grad = jax.jit(jax.grad(lambda p: task.phases[0].loss(p, model.carry, data, jax.random.key(0))[0]))
    params = model.params
    for _ in range(200):
        params = jax.tree.map(lambda p, g: p - 0.2 * g, params, grad(params))
    assert task.summary(task.evaluate(params, model.carry, data))["accuracy"] == 1
    np.testing.assert_allclose(task.predict(params, model.carry, data).sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "image", "says"),
    [
        ({"widths": ()}, (8, 8, 1), "network.widths"),
        ({"hidden": -1}, (8, 8, 1), "network.hidden=-1"),
        ({"widths": (12,)}, (8, 8, 1), "multiples of 8"),
        ({"widths": (8,) * 4}, (8, 8, 1), "16 px or more"),
        ({}, (8, 9, 1), "not square"),
    ],
)
def test_impossible_settings_are_refused(settings, image, says) -> None:
    with pytest.raises(UserError, match=says):
        Classify(network=CNNSettings(**settings)).build(image, 3, Compute())


def test_another_size_by_preprocessing() -> None:
    task = dataclasses.replace(SMALL, preprocess=Preprocess(size=16), augment=Augment(flip=0.5))
    task = task.build((8, 9, 1), 3, Compute())
    model = task.init(jax.random.key(0))
    wide = {**batch(), "image": jnp.zeros((4, 8, 9, 1), jnp.uint8)}
    assert task.predict(*model, wide).shape == (4, 3)
