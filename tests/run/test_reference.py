"""What a run keeps of its images: for every network, for clients with models of their own, and for the best model."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Grey

from fedjax_mri.data.contract import DataDescription
from fedjax_mri.fed.algorithms.fedper import FedPer
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.efficientnet import EfficientNetSettings
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.nets.vgg import VGGSettings
from fedjax_mri.run import experiment, reference, restore, results
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.run.models import global_model
from fedjax_mri.run.reference import calibration_set, example_set, spread_over_clients
from fedjax_mri.tasks.classify import Classify

CONFIG = Experiment(
    Grey(clients=3),
    task=Classify(network=CNNSettings(widths=(4, 4))),
    local=LocalTraining(batch=4, learning_rate=0.05),
    sampling=Everyone(),
    rounds=2,
    evaluate_every=1,
    early=Early(figure="train/nll"),  # which keeps the first of two rounds
    plan=Plan(tune_s=0, conv="xla", devices=1),
)


@pytest.mark.parametrize(
    ("network", "widths"),
    [
        (CNNSettings(widths=(4, 8)), {4 + 4 + 8 + 8}),  # before and after each pool
        (ResNetSettings(18, width=8), range(64, 128)),
        (ResNetSettings(50, width=32), {512}),  # projected
        (VGGSettings(width=4, hidden=8), range(32, 256)),
        (EfficientNetSettings(1.0, 1.0), range(100, 513)),
        (LinearSettings(), {0}),
    ],
    ids=["CNN", "ResNet-18", "ResNet-50", "VGG16", "EfficientNet", "linear"],
)
def test_every_network_has_features_but_one_without_layers(network, widths) -> None:
    described = DataDescription((32, 32, 1), ("a", "b"), 1)
    task = Classify(network=network).build(described, Compute())
    model = jax.eval_shape(task.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((3, 32, 32, 1), jnp.uint8)
    found = jax.eval_shape(lambda model, x: reference.describe(task.classifier, *model, x), model, images)
    shapes = {kind: one.shape for kind, one in found.items()}
    assert shapes.pop("features", (3, 0)) in {(3, width) for width in widths}
    assert shapes == {"appearance": (3, 8), "grey values": (3, 4), "outline": (3, 4)}


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(None, marks=pytest.mark.thorough), FedPer()],
    ids=["shared", "heads of clients' own"],
)
def test_distances_are_those_of_the_model_that_explain_loads(tmp_path, algorithm) -> None:
    """By NumPy: every second test image, as the best model sees it, against Gaussians of the training images."""
    config = CONFIG if algorithm is None else replace(CONFIG, algorithm=algorithm)
    experiment.run(config, tmp_path / "run", say=lambda line: None)
    kept, best = results.reference(tmp_path / "run"), restore.restore_best_or_newest(tmp_path / "run")
    federation = config.data.build(config.seed)
    name = calibration_set({name: test.owner for name, test in federation.tests.items()})
    data = federation.tests[name].data
    whole = [
        np.asarray(data.read(data.store, jnp.int32(client), jnp.arange(size, dtype=jnp.int32))["image"])
        for client, size in enumerate(data.sizes)
    ]
    images = jnp.asarray(np.concatenate(whole)[::2])
    found = jax.jit(partial(reference.describe, best.task.classifier))(*global_model(best), images)
    logits = jax.jit(best.task.classifier.logits)(*global_model(best), best.task.classifier.preprocess(images))
    tests = results.explained_tests(tmp_path / "run")  # by which `explain` calibrates
    np.testing.assert_allclose(tests[name].probabilities[::2], jax.nn.softmax(logits), atol=1e-5)
    last = results.load(tmp_path / "run").tests[name].probabilities
    assert np.abs(tests[name].probabilities - last).max() > 1e-3
    assert set(kept.distances) == {"features", "appearance", "grey values", "outline"} == set(found)
    for kind, distances in kept.distances.items():
        means, precision = (np.asarray(one, float) for one in kept.gaussians[kind])
        gaps = np.asarray(found[kind], float)[:, None] - means
        expected = np.einsum("ncd,de,nce->nc", gaps, precision, gaps).min(1)
        np.testing.assert_allclose(distances, expected, rtol=1e-2, atol=1e-2)


def test_examples_come_from_a_few_clients_and_are_those_at_their_places(monkeypatch) -> None:
    monkeypatch.setattr(reference, "CLIENTS", 2)
    places = spread_over_clients(np.array([3, 0, 4, 4], np.int32), 5)
    assert places.tolist() == [0, 1, 7, 8, 10]  # clients 0 and 3
    data = Grey(clients=3).build(0).train
    chosen = np.array([0, 2, data.sizes.sum() - 1])
    part = example_set(data, chosen)
    read = reference.chosen_reader(part.read)
    found = read(part.store, jnp.int32(0), jnp.arange(3, dtype=jnp.int32))["label"]
    labels = [
        int(data.read(data.store, jnp.int32(client), jnp.asarray([index], jnp.int32))["label"][0])
        for client, index in [(0, 0), (0, 2), (len(data.sizes) - 1, data.sizes[-1] - 1)]
    ]
    assert found.tolist() == labels
