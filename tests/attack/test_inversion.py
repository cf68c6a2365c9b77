"""What an update gives away: gradients again in NumPy, the image of a linear model, pairs of images by trying all."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.attack import inversion, trial, victim
from fedjax_mri.attack.inversion import Matching
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import init_state
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.privacy.local import LocalSettings
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run.assemble import assemble
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

SIDE, CLASSES, CLIENTS = 12, 3, 4
RNG = np.random.default_rng(0)
FIELDS = {
    "image": RNG.random((4, SIDE, SIDE, 1)).astype(np.float32),
    "label": np.array([2, 0, 1, 0], np.int32),
}
OTHERS = RNG.random((9, SIDE, SIDE, 1)).astype(np.float32)
DESCRIBED = DataDescription((SIDE, SIDE, 1), ("a", "b", "c"), CLIENTS, labels=(1, 1, 1))
CONFIG = Experiment(
    data=Phantom(),  # not built: images are given
    task=Classify(network=LinearSettings()),
    local=LocalTraining(epochs=1, batch=16, optimizer="optax.sgd", learning_rate=0.1),
    sampling=Everyone(),
    plan=Plan(devices=1, tune_s=0),
)


def first(count: int) -> dict[str, np.ndarray]:
    """The first images and labels."""
    return {name: field[:count] for name, field in FIELDS.items()}


def attacked(config: Experiment, count: int, groups: int = 1, **how: float) -> trial.Trial:
    """What an attacker finds of the first images."""
    return trial.inverter(config, DESCRIBED, first(count), OTHERS, groups, Matching(**how))(first(count))


def probabilities(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Those of softmax regression on x [n, F]."""
    z = x @ weights + bias
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


@functools.cache
def seen(groups: int) -> tuple[victim.Seen, victim.Seen]:
    """What is seen of four images in one local step of a linear model, by one hospital and by several."""

    def of(groups: int) -> victim.Seen:
        data = victim.victims(FIELDS, CLIENTS, groups)
        sim = assemble(CONFIG, DESCRIBED, data, Plan(devices=1, lanes=1, conv="xla").resolve())
        root = jax.random.key(0)
        return victim.observer(sim, init_state(sim, root), root, groups)(data)

    return of(1), of(groups)


def test_what_is_seen_is_the_step_of_the_hospital_or_the_mean_of_several() -> None:
    one, two = seen(2)
    kernel, bias = (np.asarray(one.start.params["logits"][name], np.float64) for name in ("kernel", "bias"))
    x = FIELDS["image"].reshape(4, -1).astype(np.float64)
    error = (probabilities(x, kernel, bias) - np.eye(CLASSES)[FIELDS["label"]]) / 4
    np.testing.assert_allclose(one.change["logits"]["kernel"], -0.1 * x.T @ error, atol=1e-7)
    np.testing.assert_allclose(one.change["logits"]["bias"], -0.1 * error.sum(0), atol=1e-7)
    np.testing.assert_allclose(two.change["logits"]["kernel"], one.change["logits"]["kernel"], atol=1e-7)
    assert (one.steps, one.examples, two.examples) == (1, 4, 4)


def test_a_linear_model_gives_its_image_away_to_rounding() -> None:
    """In float64 at about 151 dB or more; from a run, in float32, and after several local steps, a little less."""
    x, rng = FIELDS["image"][:1].reshape(1, -1).astype(np.float64), np.random.default_rng(3)
    error = probabilities(x, rng.normal(0, 0.1, (SIDE**2, CLASSES)), np.zeros(CLASSES)) - np.eye(CLASSES)[[2]]
    change = {"logits": {"bias": -0.1 * error[0], "kernel": -0.1 * x.T @ error}}
    found = inversion.linear_images(change, np.array([2]), (SIDE, SIDE, 1))
    assert found is not None and -10 * np.log10(np.mean((found - FIELDS["image"][:1]) ** 2)) > 140
    for epochs, least in ((1, 110), (5, 100)):
        one = attacked(replace(CONFIG, local=replace(CONFIG.local, epochs=epochs)), 1)
        assert one.psnr > least and one.ssim > 0.9999 and one.labels == 1 and one.steps == epochs
    other = {"a": {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3)}}
    assert inversion.linear_images(other, np.array([2]), (SIDE, SIDE, 1)) is None


@pytest.mark.parametrize("privacy", [LocalSettings(epsilon=8.0), Client(epsilon=8.0)])
def test_noise_leaves_less_than_a_grey_image_has(privacy) -> None:
    """At the hospital, or at the server."""
    one = attacked(replace(CONFIG, privacy=privacy, rounds=1), 1)
    assert one.psnr < one.constant[0] and one.constant[0] == pytest.approx(10.8, abs=1)


def test_labels_are_inferred_from_the_gradient_of_the_last_bias() -> None:
    label = np.array([0, 0, 2, 3, 3, 3])
    error = np.full((6, 4), 0.25) - np.eye(4)[label]
    change = -0.1 * error.mean(0)
    np.testing.assert_array_equal(inversion.inferred_labels(change, 1, 0.1, 6), label)
    assert inversion.inferred_labels(np.array([-0.2, 0.5, -0.3]), 5, 1e-3, 1).tolist() == [1]


def test_images_are_paired_as_well_as_they_can_be() -> None:
    found = FIELDS["image"][[2, 0, 3, 1]] + np.linspace(0.01, 0.04, 4, dtype=np.float32)[:, None, None, None]
    found = found.clip(0, 1)

    def decibels(order: tuple[int, ...]) -> float:
        return float(np.mean([-10 * np.log10(np.mean((found[i] - FIELDS["image"][j]) ** 2, dtype=np.float64))
                              for i, j in enumerate(order)]))  # fmt: skip

    psnr, ssim = inversion.quality(found, FIELDS["image"])
    assert psnr == pytest.approx(max(map(decibels, itertools.permutations(range(4)))), abs=1e-3)
    assert ssim > 0.9


def test_the_image_is_found_in_the_update_of_a_convolutional_network() -> None:
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    picture = np.float32((rows - 0.5) ** 2 + (columns - 0.4) ** 2 < 0.1) * 0.8 + 0.1
    fields = {"image": picture[None, ..., None], "label": np.array([1], np.int32)}
    config = replace(CONFIG, task=Classify(network=CNNSettings(widths=(16,), norm="none")))
    one = trial.inverter(config, DESCRIBED, fields, OTHERS, 1, Matching(steps=400))(fields)
    assert one.labels == 1 and one.psnr > one.constant[0] + 5 and one.ssim > 0.5
