"""The classification task: padding is nothing, BatchNorm's statistics travel or stay, evaluation is exact."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from described import described
from stepping import stepped

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.augment import Augment, Preprocess
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.tasks.classify import MIXES, Classify, balanced_weights
from fedjax_mri.tasks.classify import mixup as mixed
from fedjax_mri.tasks.task import Phase, Task

SMALL = Classify(network=CNNSettings(widths=(8,), hidden=16))
BATCH = Classify(network=CNNSettings(widths=(8,), norm="batch"))
PLAIN = Classify(network=LinearSettings())  # where the loss is looked at, and not the network
mixup = jax.jit(mixed, static_argnums=0)


def batch(count: int = 4) -> dict[str, jax.Array]:
    pixels = jax.random.randint(jax.random.key(0), (count, 8, 8, 1), 0, 256).astype(jnp.uint8)
    return {"image": pixels, "label": jnp.arange(count, dtype=jnp.int32) % 3, "weight": jnp.ones(count)}


def built(settings: Classify, image: tuple[int, ...] = (8, 8, 1), labels: tuple[int, ...] = ()) -> Task:
    """The task with whole programs: each operation of its functions would be compiled by itself."""
    task = settings.build(described(image, 3, labels), Compute())
    phases = tuple(phase._replace(loss=jax.jit(phase.loss)) for phase in task.phases)
    whole = {name: jax.jit(getattr(task, name)) for name in ("init", "predict", "evaluate")}
    return task._replace(phases=phases, **whole)


@pytest.mark.parametrize("settings", [SMALL, BATCH])
def test_padding_changes_neither_gradient_nor_carry(settings) -> None:
    task = built(settings)
    model, full = task.init(jax.random.key(1)), batch()
    padded = {name: jnp.concatenate([field, field]) for name, field in full.items()}
    padded["weight"] = jnp.repeat(jnp.array([1.0, 0.0]), 4)

    gradient = jax.jit(jax.grad(task.phases[0].loss, has_aux=True))
    full, padded = (gradient(*model, one, jax.random.key(2)) for one in (full, padded))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), full, padded)


@pytest.mark.parametrize(("statistics", "travels"), [("average", True), ("local", False)])
def test_statistics_travel_or_stay(statistics, travels) -> None:
    task = built(dataclasses.replace(BATCH, statistics=statistics))
    shared = task.shared(jax.eval_shape(task.init, jax.random.key(0)))
    assert all(jax.tree.leaves(shared.params))
    assert set(jax.tree.leaves(shared.carry)) == {travels}


def test_it_can_learn_four_images_by_heart() -> None:
    task = built(SMALL)
    model, data = task.init(jax.random.key(0)), batch()

    @jax.jit
    def step(params):
        loss, grads = jax.value_and_grad(lambda p: task.phases[0].loss(p, model.carry, data, jax.random.key(0))[0])(
            params
        )
        return loss, jax.tree.map(lambda p, g: p - 0.2 * g, params, grads)

    loss, params = step(model.params)
    for _ in range(200):
        if loss < 0.2:
            break
        loss, params = step(params)
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
        Classify(network=CNNSettings(**settings)).build(described(image, 3), Compute())


def test_another_size_by_preprocessing() -> None:
    task = dataclasses.replace(SMALL, preprocess=Preprocess(size=16), augment=Augment(flip=0.5))
    task = built(task, (8, 9, 1))
    model = task.init(jax.random.key(0))
    wide = {**batch(), "image": jnp.zeros((4, 8, 9, 1), jnp.uint8)}
    assert task.predict(*model, wide).shape == (4, 3)


@pytest.mark.parametrize("most", [0.0, 0.6])
def test_the_loss_is_the_weighted_cross_entropy_of_smoothed_and_mixed_labels(most) -> None:
    """In float64, from the network's own logits: mean of -sum_c w_c t_c log p_c, and the L2 of the head alone."""
    weights = (0.5, 1.0, 3.0)
    settings = dataclasses.replace(PLAIN, label_smoothing=0.3, class_weights=weights, mixup=most)
    settings = dataclasses.replace(settings, weight_decay=0.1, decayed=("logits/kernel",))
    task, data, key = built(settings), batch(), jax.random.key(2)
    model = task.init(jax.random.key(1))
    x = data["image"].astype(jnp.float32) / 255
    x, partner, share = mixup(most, jax.random.fold_in(key, MIXES), x, data["weight"])
    net = settings.network.build((8, 8, 1), 3, Compute())
    scores = np.asarray(jax.jit(net.apply, static_argnums=4)(*model, x, data["weight"], True)[0], np.float64)
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    wanted = (0.7 * np.eye(3)[data["label"]] + 0.1) * np.array(weights)
    wanted += np.asarray(share)[:, None] * (wanted[partner] - wanted)
    (phase,), cost = task.phases, -(wanted * log_p).sum(1).mean()
    np.testing.assert_allclose(phase.loss(*model, data, key)[0], cost, rtol=1e-5)
    norm = np.square(np.asarray(model.params["logits"]["kernel"], np.float64)).sum()
    np.testing.assert_allclose(phase.penalty(model.params), 0.1 * norm, rtol=1e-5)


@pytest.mark.parametrize("decayed", [(), ("logits/kernel",)])
def test_a_step_with_a_penalty_is_the_step_on_loss_and_penalty_together(decayed) -> None:
    """As before penalties were apart: same parameters, to rounding, and the metrics of the loss alone."""
    settings = dataclasses.replace(PLAIN, weight_decay=0.1, decayed=decayed)
    task, data, keys = built(settings), batch(), [jax.random.key(2)] * 2
    (phase,), model = task.phases, task.init(jax.random.key(1))

    def together(params, carry, batch, key):
        cost, rest = phase.loss(params, carry, batch, key)
        return cost + phase.penalty(params), rest

    whole = task._replace(phases=(Phase(together, phase.trainable),))
    free = task._replace(phases=(phase._replace(penalty=None),))
    one, other, without = (stepped(each, model, optax.sgd(0.1), [data] * 2, keys) for each in (task, whole, free))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), one, other)
    assert np.abs(one.params["logits"]["kernel"] - without.params["logits"]["kernel"]).max() > 1e-4


def test_mixup_takes_a_share_of_another_image_and_nothing_of_padding() -> None:
    x = jax.random.normal(jax.random.key(0), (400, 2, 2, 1))
    weight = (jnp.arange(400) < 300).astype(jnp.float32)
    made, partner, share = mixup(0.4, jax.random.key(1), x, weight)
    here, share = np.arange(400), np.asarray(share)
    np.testing.assert_allclose(made, x + share[:, None, None, None] * (x[partner] - x), atol=1e-6)
    assert (partner != here).all() and len(np.unique(partner)) == 400
    assert (share[(here >= 300) | (np.asarray(partner) >= 300)] == 0).all()
    drawn = share[share > 0]
    assert 0.39 < drawn.max() <= 0.4 and abs(drawn.mean() - 0.2) < 0.03  # 5 standard errors
    np.testing.assert_array_equal(mixup(0.4, jax.random.key(1), x[:1], weight[:1])[0], x[:1])


def test_a_mirrored_judgement_does_not_know_left_from_right() -> None:
    plain, both = (built(dataclasses.replace(SMALL, mirror=m)) for m in (False, True))
    model, data = plain.init(jax.random.key(0)), batch()
    turned = {**data, "image": data["image"][:, :, ::-1]}
    mean = (jnp.log(plain.predict(*model, data)) + jnp.log(plain.predict(*model, turned))) / 2
    np.testing.assert_allclose(both.predict(*model, data), jax.nn.softmax(mean), rtol=1e-5)
    np.testing.assert_allclose(both.predict(*model, turned), both.predict(*model, data), rtol=1e-5)
    steps = both.classifier  # what is explained is the image as it is
    x = steps.preprocess(data["image"])
    np.testing.assert_allclose(jax.nn.softmax(jax.jit(steps.logits)(*model, x)), plain.predict(*model, data), rtol=1e-5)
    np.testing.assert_allclose(
        jax.nn.softmax(jax.jit(steps.predict_logits)(*model, x)), both.predict(*model, data), rtol=1e-5
    )


def test_frozen_parameters_do_not_move() -> None:
    task = built(dataclasses.replace(SMALL, frozen=("convs", "logits/bias")))
    trainable = task.phases[0].trainable(jax.eval_shape(task.init, jax.random.key(0)).params)
    assert not any(jax.tree.leaves(trainable["convs"])) and not trainable["logits"]["bias"]
    assert trainable["logits"]["kernel"] and all(jax.tree.leaves(trainable["norms"]))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"label_smoothing": 1.0}, "task.label_smoothing=1.0"),
        ({"mixup": -0.1}, "task.mixup=-0.1"),
        ({"class_weights": (1.0, 2.0)}, "positive weight for each of 3 classes"),
        ({"class_weights": (1.0, 2.0, 0.0)}, "positive weight for each of 3 classes"),
        ({"class_weights": "balanced"}, "task.class_weights=balanced"),
        ({"frozen": ("conv",)}, "task.frozen: 'conv' matches nothing"),
        ({"decayed": ("head",)}, "task.decayed: 'head' matches nothing"),
        ({"frozen": ("*",)}, "leaves nothing to train"),
    ],
)
def test_impossible_losses_are_refused(settings, says) -> None:
    with pytest.raises(UserError, match=says) as caught:
        dataclasses.replace(SMALL, **settings).build(described((8, 8, 1), 3), Compute())
    assert "\n" not in str(caught.value)


def test_weights_that_balance() -> None:
    np.testing.assert_allclose(balanced_weights((1, 3, 8)), [4.0, 4 / 3, 0.5], rtol=1e-6)
    np.testing.assert_allclose(balanced_weights((0, 3, 8)), [11 / 3, 11 / 9, 11 / 24], rtol=1e-6)
    data, key = batch(), jax.random.key(2)
    for labels, weights in (((1, 3, 8), (4.0, 4 / 3, 0.5)), ((2, 2, 2), (1.0, 1.0, 1.0))):
        balanced, fixed = (
            built(dataclasses.replace(PLAIN, class_weights=asked), labels=labels) for asked in ("balanced", weights)
        )
        model = fixed.init(jax.random.key(1))
        losses = [task.phases[0].loss(*model, data, key)[0] for task in (balanced, fixed)]
        np.testing.assert_allclose(*losses, rtol=1e-6)
