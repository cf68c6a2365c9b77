"""The synthetic federations against the published generators' order of draws, and training on them against NumPy."""

import pathlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from described import described

from fedjax_mri.core import keys
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.resident import whole
from fedjax_mri.data.synthetic import LeafSynthetic, Synthetic, digest
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.client.shuffle import shuffled
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, draw_cohort, initial_state
from fedjax_mri.fed.sampling import Population, Uniform
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.tasks.classify import Classify

SPREAD = np.diag([j**-1.2 for j in range(1, 61)])


def softmax(scores: np.ndarray, axis: int) -> np.ndarray:
    shifted = np.exp(scores - scores.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def plain_fedprox(alpha: float, beta: float, clients: int, iid: bool = False, times: int = 1) -> list:
    """Device by device, with NumPy's own multivariate draw."""
    rng = np.random.RandomState(3)
    sizes = (rng.lognormal(4, 2, clients).astype(int) + 50) * times
    if iid:
        shared = rng.normal(0, 1, (60, 10)), rng.normal(0, 1, 10)
        means = np.zeros((clients, 60))
    else:
        shifts = rng.normal(0, alpha, clients)
        centres = rng.normal(0, beta, clients)
        means = np.stack([rng.normal(centre, 1, 60) for centre in centres])
    found = []
    for k in range(clients):
        weights, biases = shared if iid else (rng.normal(shifts[k], 1, (60, 10)), rng.normal(shifts[k], 1, 10))
        x = rng.multivariate_normal(means[k], SPREAD, sizes[k])
        found.append((x, np.array([np.argmax(softmax(row @ weights + biases, 0)) for row in x])))
    return found


def plain_leaf(clients: int, classes: int, features: int, seed: int) -> list:
    """LEAF's generator of one cluster, from a global state seeded twice."""
    sizes = [min(n + 5, 1000) for n in np.random.RandomState(seed).lognormal(3, 2, clients).astype(int)]
    rng = np.random.RandomState(seed)
    basis = rng.normal(0, 1, (features + 1, classes, 1))
    centre = rng.normal(rng.normal(0, 1), 1, 1)
    found = []
    for n in sizes:
        rng.choice(range(1), p=[1.0])
        means = rng.normal(rng.normal(0, 1), 1, features)
        x = rng.multivariate_normal(means, SPREAD[:features, :features], n)
        scores = np.column_stack([np.ones(n), x]) @ (basis @ rng.normal(centre, 0.1, 1))
        found.append((x, softmax(scores + rng.normal(0, 0.1, (n, classes)), 0).argmax(1)))
    return found


CASES = {
    "unlike": (Synthetic(0.5, 1.0, clients=6), lambda: plain_fedprox(0.5, 1.0, 6)),
    "no spread, larger": (Synthetic(0.0, 0.0, clients=4, times=2), lambda: plain_fedprox(0, 0, 4, times=2)),
    "iid": (Synthetic(clients=5, iid=True), lambda: plain_fedprox(0, 0, 5, iid=True)),
    "leaf": (LeafSynthetic(clients=7, classes=4, features=8), lambda: plain_leaf(7, 4, 8, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_arrays_are_those_of_the_published_generator(name) -> None:
    source, plain = CASES[name]
    federation, shuffle = source.build(3), random.Random(3)
    for client, (x, y) in enumerate(plain()):
        pairs = list(zip(x, y))
        shuffle.shuffle(pairs)
        cut = int(0.9 * len(pairs))
        for data, part in ((federation.train, pairs[:cut]), (federation.tests["held-out"].data, pairs[cut:])):
            fields = data.fetch(client)
            np.testing.assert_allclose(fields["image"][:, 0, 0], [x for x, _ in part], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(fields["label"], [y for _, y in part])


# Also in docs/published.md.
DIGESTS = {
    "e760661e4723eaf278e0aea0c911c7b1345aa52c85955de7ae13b65a3dd3c1b2": (Synthetic(iid=True), 0),
    "c77c130a5f71274a8c4e52dfa4c2a2cf8af59aa6da0d556171d45ecb31d151c8": (Synthetic(0.0, 0.0), 0),
    "934e2f85e3abfc9391c683f6048a2da10745184ba7d54e8a9020bb55dbcc18f2": (Synthetic(0.5, 0.5), 0),
    "b312656b4b68183e1d10cde68c8917dd600f0a9bb66ff1969126247904c2cc4c": (Synthetic(1.0, 1.0), 0),
    "b3e615d01523ebe70c0b46e57850cbb81a770723882fd884b2912dfa912b23a8": (Synthetic(0.5, 0.5, 100, times=5), 0),
    "e61b13dd967e98741bf40ae07bedd6e7ec4ebe44da1cc9fad401f81c4d0d4bb6": (LeafSynthetic(), 931231),
}
PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "published.md").read_text()


@pytest.mark.parametrize("expected", DIGESTS)
def test_published_digests(expected) -> None:
    source, seed = DIGESTS[expected]
    assert digest(source.build(seed).train) == expected
    assert f"| {seed} | {source.clients} |" in next(line for line in PAGE.splitlines() if expected in line)


def test_alpha_changes_nothing() -> None:
    """It shifts the scores of all classes alike: no label moves, whatever the paper says of it."""
    assert len({digest(Synthetic(alpha, 0.5, clients=5).build(0).train) for alpha in (0.0, 0.5, 10.0)}) == 1
    assert digest(Synthetic(0.0, 0.4, clients=5).build(0).train) != digest(
        Synthetic(0.0, 0.5, clients=5).build(0).train
    )


def test_the_training_set_is_judged_too_and_nobody_is_tested_on_it_by_mistake() -> None:
    federation = Synthetic(clients=4).build(0)
    train, held_out = (whole(federation.tests[name].data).fields["image"] for name in ("training", "held-out"))
    np.testing.assert_array_equal(train, whole(federation.train).fields["image"])
    assert not np.isin(held_out[:, 0, 0, 0], train[:, 0, 0, 0]).any()
    for test in federation.tests.values():
        np.testing.assert_array_equal(test.owner, np.arange(4))
    np.testing.assert_array_equal(federation.labels.sum(1), federation.train.sizes)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Synthetic(alpha=-1.0), "data.alpha=-1.0"),
        (Synthetic(beta=float("nan")), "data.beta=nan"),
        (Synthetic(clients=0), "data.clients=0"),
        (LeafSynthetic(clients=0), "data.clients=0"),
        (Synthetic(times=0), "data.times=0"),
        (LeafSynthetic(classes=0), "data.classes=0"),
    ],
)
def test_bad_settings_are_refused(source, says) -> None:
    with pytest.raises(UserError, match=says):
        source.build(0)


def test_a_model_of_other_classes_is_refused() -> None:
    with pytest.raises(UserError, match="the model knows a, b"):
        LeafSynthetic(clients=2).evaluation(("a", "b"), 0)
    assert set(LeafSynthetic(clients=2, classes=2).evaluation(("0", "1"), 0)[0]) == {"held-out", "training"}


def simulation(source: Synthetic, **changes: object) -> tuple[Simulation, dict]:
    """The published settings but for the epochs: batches of 10, SGD at .01, weighted by examples."""
    federation = source.build(1)
    task = Classify(network=LinearSettings()).build(described((1, 1, 60), 10), Compute())
    chain = UplinkSettings().build()
    local = Local(2, 10, optax.sgd, lambda round: jnp.float32(0.01))
    sample = Uniform(3).build(Population(federation.train.sizes))
    base = Simulation(task, FedAvg().build(), chain, sample, local, federation.train)
    return base._replace(**changes), dict(federation.tests)


ORDER = jax.jit(shuffled)  # of positions int32 [2000], of which the client has the first few


def plain_round(sim: Simulation, weights: np.ndarray, bias: np.ndarray, root, number: int) -> tuple:
    """FedAvg on softmax regression in float64, by hand: only who takes part and in which order is the engine's."""
    cohort = draw_cohort(sim, root, jnp.int32(number))
    total, moved = 0, [0.0, 0.0]
    for client in np.asarray(cohort.client):
        fields = sim.data.fetch(int(client))
        x, y = fields["image"][:, 0, 0].astype(np.float64), np.eye(10)[fields["label"]]
        own, shift = weights.copy(), bias.copy()
        key = keys.purpose(keys.client(root, jnp.int32(number), jnp.int32(client)), keys.Purpose.SHUFFLE)
        for epoch in range(sim.local.epochs):
            order = np.asarray(ORDER(jax.random.fold_in(key, epoch), jnp.arange(2000), jnp.int32(len(x))))[: len(x)]
            for first in range(0, len(x), 10):
                rows = order[first : first + 10]
                error = (softmax(x[rows] @ own + shift, 1) - y[rows]) / len(rows)
                own, shift = own - 0.01 * x[rows].T @ error, shift - 0.01 * error.sum(0)
        moved = [moved[0] + len(x) * (own - weights), moved[1] + len(x) * (shift - bias)]
        total += len(x)
    return weights + moved[0] / total, bias + moved[1] / total


def loss(data, weights: np.ndarray, bias: np.ndarray) -> float:
    """The global objective: mean negative log likelihood over all clients' examples."""
    fields = whole(data).fields
    chance = softmax(fields["image"][:, 0, 0].astype(np.float64) @ weights + bias, 1)
    return float(-np.log(chance[np.arange(len(chance)), fields["label"]]).mean())


def test_training_equals_a_plain_loop_in_float64() -> None:
    sim, tests = simulation(Synthetic(clients=5))
    plan, root = Plan(devices=1, lanes=2).resolve(), jax.random.key(1)
    state: State = initial_state(sim, plan, root)
    layer = state.server.model.params["logits"]
    weights, bias = np.asarray(layer["kernel"], np.float64), np.asarray(layer["bias"], np.float64)
    state, *_ = segments.build(sim, plan, root, 2)(state, 2)
    for number in range(2):
        weights, bias = plain_round(sim, weights, bias, root, number)
    layer = state.server.model.params["logits"]
    np.testing.assert_allclose(layer["kernel"], weights, atol=1e-4)
    np.testing.assert_allclose(layer["bias"], bias, atol=1e-4)

    judged = evaluate.build(sim.task, plan, {"training": tests["training"]})(state)
    metrics = jax.tree.map(lambda x: x.sum(0), judged["training"].metrics)
    np.testing.assert_allclose(sim.task.summary(metrics)["nll"], loss(sim.data, weights, bias), rtol=1e-4)


def test_the_linear_network_takes_images_of_any_shape() -> None:
    net = LinearSettings().build((2, 3, 4), 5, Compute())
    params, carry = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 2, 3, 4))
    logits, _ = net.apply(params, carry, x, jnp.ones(6), True)
    layer = params["logits"]
    np.testing.assert_allclose(logits, x.reshape(6, 24) @ layer["kernel"] + layer["bias"][None], rtol=1e-5, atol=1e-6)
    assert abs(layer["kernel"]).max() <= np.sqrt(6 / (24 + 5))  # Glorot's bound


def test_inputs_reach_the_network_as_they_are() -> None:
    """No scaling, no clipping: values far outside of 0..1 count in full."""
    sim, _ = simulation(Synthetic(clients=3))
    model = sim.task.init(jax.random.key(0))
    layer = model.params["logits"]
    batch = sim.data.read(sim.data.store, jnp.int32(0), jnp.arange(4, dtype=jnp.int32))
    x = np.asarray(batch["image"])[:, 0, 0]
    assert x.min() < -1 and x.max() > 1
    chance = sim.task.predict(model.params, model.carry, {**batch, "weight": jnp.ones(4)})
    np.testing.assert_allclose(
        chance, softmax(x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 1), rtol=1e-4, atol=1e-6
    )
