"""The synthetic federations on which FedProx and LEAF publish results: a linear model and inputs for each device.

Draws come from NumPy's legacy generator in the order of the published generators, so that the same seed gives the same
arrays. An example is an image of 1 x 1 px with a channel for each feature, and goes to the network as it is.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import VALIDATION, ClientData, Federation, Table, Test
from fedjax_mri.data.resident import resident, whole

TRAINING = 0.9  # share of a device's examples that trains
FEATURES, CLASSES = 60, 10  # FedProx's


class Device(NamedTuple):
    """All examples of one client."""

    x: np.ndarray  # float64 [n, d]
    y: np.ndarray  # int [n]


@dataclass(frozen=True)
class Synthetic:
    """synthetic(alpha, beta), section 5.1 of Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in
    Heterogeneous Networks, MLSys 2020 (arXiv 1812.06127).

    alpha and beta are standard deviations, as in the published generator; the paper may be read as variances.
    """

    alpha: float = 1.0  # how much models differ between clients
    beta: float = 1.0  # how much inputs do
    clients: int = 30
    times: int = 1  # the sizes of the power law are multiplied by this; pFedMe's generator has 5
    iid: bool = False  # one model and one distribution of inputs for all; alpha and beta have no effect
    validation: float = 0.0  # share of a device's training examples that validates; the published data have none

    def build(self, seed: int) -> Federation:
        """Returns a federation with test sets "held-out", a tenth of each client, and "training".

        The mean loss of "training" is the global objective.

        Raises UserError on a negative spread, no clients or no examples.
        """
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"data.{name}={getattr(self, name)}: give a standard deviation, 0 or more")
        check_counts(clients=self.clients, times=self.times)
        rng = np.random.RandomState(seed)
        size = (rng.lognormal(4, 2, self.clients).astype(int) + 50) * self.times
        devices = identical(size, rng) if self.iid else heterogeneous(size, self.alpha, self.beta, rng)
        return federation(devices, CLASSES, seed, self.validation)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns the test sets. Raises UserError where the saved model knows other classes."""
        return tests_of(self.build(seed), classes), ()


@dataclass(frozen=True)
class LeafSynthetic:
    """The synthetic data of LEAF: models scattered about one centre, sizes from 5 to 1,000.

    Caldas et al.: LEAF: A Benchmark for Federated Settings, 2018 (arXiv 1812.01097). LEAF's own seed is 931231.
    """

    clients: int = 100
    classes: int = 5
    features: int = 60
    validation: float = 0.0  # as Synthetic's

    def build(self, seed: int) -> Federation:
        """Returns a federation with the test sets of Synthetic. Raises UserError on no clients, classes or features."""
        check_counts(clients=self.clients, classes=self.classes, features=self.features)
        devices = leaf(self.clients, self.classes, self.features, seed)
        return federation(devices, self.classes, seed, self.validation)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns the test sets. Raises UserError where the saved model knows other classes."""
        return tests_of(self.build(seed), classes), ()


def check_counts(**counts: int) -> None:
    """Raises UserError on the first count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"data.{name}={count}: give 1 or more")


def heterogeneous(sizes: np.ndarray, alpha: float, beta: float, rng: np.random.RandomState) -> list[Device]:
    """Returns clients that differ: u_k ~ N(0, alpha), B_k ~ N(0, beta), v_k ~ N(B_k, 1), W_k and b_k ~ N(u_k, 1)."""
    shifts, centres = rng.normal(0, alpha, len(sizes)), rng.normal(0, beta, len(sizes))
    means = rng.normal(centres[:, None], 1, (len(sizes), FEATURES))

    def one(size: int, shift: float, mean: np.ndarray) -> Device:
        weights, biases = rng.normal(shift, 1, (FEATURES, CLASSES)), rng.normal(shift, 1, CLASSES)
        x = inputs(mean, size, rng)
        return Device(x, (x @ weights + biases).argmax(1))

    return [one(*each) for each in zip(sizes, shifts, means)]


def identical(sizes: np.ndarray, rng: np.random.RandomState) -> list[Device]:
    """Returns clients that differ in size alone; inputs have mean 0."""
    weights, biases = rng.normal(0, 1, (FEATURES, CLASSES)), rng.normal(0, 1, CLASSES)
    each = [inputs(np.zeros(FEATURES), size, rng) for size in sizes]
    return [Device(x, (x @ weights + biases).argmax(1)) for x in each]


def inputs(mean: np.ndarray, size: int, rng: np.random.RandomState) -> np.ndarray:
    """Returns x ~ N(mean, diag(j^-1.2)), [size, d], as one multivariate draw would give, but with no use of LAPACK."""
    return mean + rng.standard_normal((size, len(mean))) * np.sqrt(np.arange(1.0, len(mean) + 1) ** -1.2)


def leaf(clients: int, classes: int, features: int, seed: int) -> list[Device]:
    """Returns the devices of LEAF with its one cluster of models."""
    drawn = np.random.RandomState(seed).lognormal(3, 2, clients).astype(int)
    rng = np.random.RandomState(seed)  # sizes and examples start from the same seed there
    basis = rng.normal(size=(features + 1, classes, 1))
    centre = rng.normal(rng.normal(), 1, 1)
    return [leaf_device(size, basis, centre, rng) for size in np.minimum(drawn + 5, 1000)]


def leaf_device(size: int, basis: np.ndarray, centre: np.ndarray, rng: np.random.RandomState) -> Device:
    """Returns one device of `size` examples.

    basis [1 + d, C, 1] maps its model's place near `centre` [1] to weights.
    """
    rng.random_sample()  # the choice of a cluster, of which there is one
    mean = rng.normal(rng.normal(), 1, len(basis) - 1)
    x = inputs(mean, size, rng)
    weights = basis @ rng.normal(centre, 0.1)
    scores = x @ weights[1:] + weights[0] + rng.normal(0, 0.1, (size, weights.shape[1]))
    # LEAF's softmax divides each class by its sum over the device's examples, not each example by its sum over classes.
    return Device(x, (scores - np.logaddexp.reduce(scores, 0)).argmax(1))


def federation(devices: Sequence[Device], classes: int, seed: int, validation: float = 0.0) -> Federation:
    """Returns the federation of these devices: each is shuffled, and trains on its first nine tenths.

    The last `validation` share of these validates instead. Raises UserError unless 0 <= validation < 1.
    """
    if not 0 <= validation < 1:
        raise UserError(f"data.validation={validation}: give a share from 0 to below 1")
    shuffle, ends = random.Random(seed).shuffle, np.cumsum([len(device.y) for device in devices])
    orders = [list(range(end - len(device.y), end)) for device, end in zip(devices, ends)]
    for order in orders:
        shuffle(order)
    cuts = [int(TRAINING * len(order)) for order in orders]
    trained = [cut - int(validation * cut) for cut in cuts]
    train = [np.array(order[:cut], int) for order, cut in zip(orders, trained)]
    validated = [np.array(order[start:cut], int) for order, start, cut in zip(orders, trained, cuts)]
    held_out = [np.array(order[cut:], int) for order, cut in zip(orders, cuts)]

    x, labels = (np.concatenate(field) for field in zip(*devices))
    arrays = {"image": x.astype(np.float32)[:, None, None], "label": labels.astype(np.int32)}
    training, owner = resident(arrays, train), np.arange(len(devices), dtype=np.int32)
    tests = {"held-out": Test(resident(arrays, held_out), owner), "training": Test(training, owner)}
    if sum(map(len, validated)):
        tests[VALIDATION] = Test(resident(arrays, validated), owner)
    return Federation(
        train=training,
        tests=tests,
        classes=tuple(map(str, range(classes))),
        labels=np.stack([np.bincount(labels[part], minlength=classes) for part in train]).astype(np.int32),
        synthetic=True,
    )


def tests_of(federation: Federation, classes: tuple[str, ...]) -> dict[str, Test]:
    """Returns the test sets. Raises UserError where the saved model knows other classes."""
    if classes != federation.classes:
        raise UserError(f"this data has classes {', '.join(federation.classes)}, the model knows {', '.join(classes)}")
    return dict(federation.tests)


def digest(data: ClientData) -> str:
    """Returns a name for the data: SHA-256 over all sizes, inputs and labels, little-endian int32, float32, int32."""
    store = whole(data)
    arrays = (store.size, store.fields["image"], store.fields["label"])
    return hashlib.sha256(b"".join(x.astype(x.dtype.newbyteorder("<")).tobytes() for x in arrays)).hexdigest()
