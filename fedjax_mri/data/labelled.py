"""Labelled examples made into a federation: who trains, validates and tests, and at which hospital.

Examples of a group, such as copies of a picture or slices of a patient, stay on one side and at one hospital.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import PATIENT, VALIDATION, ClientData, Federation, Table, Test
from fedjax_mri.data.partition import Partition, follow, holdout
from fedjax_mri.data.resident import resident
from fedjax_mri.data.streamed import streamed

TRAINING, TEST = "training", "test"  # the third side is VALIDATION
SIDE_OF = {  # the side that the name of a split says, in lower case
    **dict.fromkeys(("training", "train"), TRAINING),
    **dict.fromkeys(("validation", "valid", "val"), VALIDATION),
    **dict.fromkeys(("testing", "test"), TEST),
}


class Labelled(NamedTuple):
    """n examples of C classes, as a file or a folder gives them."""

    arrays: Mapping[str, np.ndarray]  # fields [n, ...]; "label" int32 [n] is one
    classes: tuple[str, ...]
    split_groups: np.ndarray  # int [n]; examples of the same number are never separated
    subsets: np.ndarray | None = None  # str [n], TRAINING, VALIDATION or TEST; None: to be drawn
    sites: np.ndarray | None = None  # str [n], the hospital of each; None: to be dealt by a partition
    patients: bool = False  # whether the patient of each is known, so that a group is all that there is of somebody
    lost: Mapping[str, str] = MappingProxyType({})  # class -> what is said of files of it that could not be read

    @property
    def labels(self) -> np.ndarray:
        """The class of each example, int32 [n]."""
        return self.arrays["label"]


class ClientSplit(NamedTuple):
    """The examples of one subset, by client."""

    names: list[str]  # of the clients
    owner: np.ndarray  # int32 [M], training client or -1
    places: list[np.ndarray]  # of each client's examples

    @property
    def all(self) -> np.ndarray:
        """The places of all examples, client by client."""
        return np.concatenate([np.empty(0, np.int64), *self.places])


class DataSplit(NamedTuple):
    """Examples by subset and client."""

    train: ClientSplit
    test: ClientSplit
    validation: ClientSplit


def divide(name: str, examples: Labelled, shares: tuple[float, float], partition: Partition, seed: int) -> DataSplit:
    """Returns examples on the sides and at the sites they come with; what they lack is drawn by `seed`.

    `shares` of every class are held out for testing, of all examples, and for validation, of those left to train. The
    test set does not depend on the latter. Raises UserError, about data of that `name`, where a class has no example
    to train on, or none tests.
    """
    for field, share in zip(("holdout", "validation"), shares):
        if not 0 <= share < 1:
            raise UserError(f"data.{field}={share}: give a share from 0 to below 1, as --data.{field} 0.15")
    rng, rng_validation = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    given = np.full(len(examples.labels), TRAINING) if examples.subsets is None else examples.subsets
    train, test, validation = (np.flatnonzero(given == side) for side in (TRAINING, TEST, VALIDATION))
    if len(test) == 0 and shares[0]:
        train, test = held_out(examples, train, shares[0], rng, least=1)
    check_sides(name, examples, train, test)
    if len(validation) == 0 and shares[1]:
        train, validation = held_out(examples, train, shares[1], rng_validation, least=0)
    if examples.sites is not None:
        clients = sorted(set(examples.sites[train].tolist()))
        return DataSplit(*(by_site(examples.sites, clients, places) for places in (train, test, validation)))
    parts = [train[part] for part in partition.split(examples.labels[train], examples.split_groups[train], rng)]
    counts = count(examples, parts)

    def dealt(places: np.ndarray, rng: np.random.Generator) -> ClientSplit:
        return by_training_client(
            [places[p] for p in follow(examples.labels[places], examples.split_groups[places], counts, rng)]
        )

    return DataSplit(by_training_client(parts), dealt(test, rng), dealt(validation, rng_validation))


def held_out(
    examples: Labelled, places: np.ndarray, share: float, rng: np.random.Generator, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns places [n] in two parts, the second with `share` of every class, and at least `least` examples of it."""
    rest, held = holdout(examples.labels[places], examples.split_groups[places], share, rng, least)
    return places[rest], places[held]


def check_sides(name: str, examples: Labelled, train: np.ndarray, test: np.ndarray) -> None:
    """Raises UserError unless examples of all classes are at the places `train`, and some are at the places `test`."""
    lost = examples.lost
    for label, of_class in enumerate(examples.classes):
        if label not in examples.labels[train]:
            raise UserError(
                f"{name}: no readable image of class {of_class!r} is left to train on{lost.get(of_class, '')}: add or "
                "remove some"
            )
    if len(test) == 0:
        why = "".join(list(lost.values())[:1])
        drawn = "raise --data.holdout, or add patients, as images of one and copies stay together"
        remedy = drawn if examples.subsets is None else "add some"
        raise UserError(f"{name}: no readable image is left to test on{why}: {remedy}")


def by_training_client(parts: list[np.ndarray]) -> ClientSplit:
    """Returns the split whose client k belongs to training client k."""
    return ClientSplit([str(client) for client in range(len(parts))], np.arange(len(parts), dtype=np.int32), parts)


def by_site(sites: np.ndarray, clients: Sequence[str], places: np.ndarray) -> ClientSplit:
    """Returns the split of examples at `places`, with a client for each of their sites.

    Sites are in the order of training `clients`.
    """
    theirs = set(sites[places].tolist())
    names = [name for name in clients if name in theirs] + sorted(theirs - set(clients))
    owner = np.array([clients.index(name) if name in clients else -1 for name in names], np.int32)
    return ClientSplit(names, owner, [places[sites[places] == name] for name in names])


def count(examples: Labelled, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the examples per client and class, int32 [N, C]."""
    bins = [np.bincount(examples.labels[part], minlength=len(examples.classes)) for part in parts]
    return np.stack(bins).astype(np.int32)


def federation(examples: Labelled, divided: DataSplit, test: str, tables: Sequence[Table] = ()) -> Federation:
    """Returns the federation of divided examples, with a test set named `test`.

    A table of its clients follows `tables`.
    """
    counts = count(examples, divided.train.places)
    tests = {name: part for name, part in ((test, divided.test), (VALIDATION, divided.validation)) if len(part.all)}
    return Federation(
        train=training_clients(examples, divided.train),
        tests={name: Test(clients(examples, part), part.owner) for name, part in tests.items()},
        classes=examples.classes,
        labels=counts,
        tables=(*tables, client_table(examples, divided)),
        warnings=tuple(warnings(examples, divided)),
    )


def clients(examples: Labelled, part: ClientSplit) -> ClientData:
    """Returns the examples of a split as client data; those of a file that is mapped into memory stay there."""
    mapped = any(isinstance(array, np.memmap) for array in examples.arrays.values())
    return (streamed if mapped else resident)(examples.arrays, part.places)


def training_clients(examples: Labelled, part: ClientSplit) -> ClientData:
    """Returns the examples of a split as client data that say whose each is, if that is known.

    Those of a patient are in a row.
    """
    if not examples.patients:
        return clients(examples, part)
    places, numbers, counts = [], np.zeros(len(examples.labels), np.int32), []
    for of_client in part.places:
        _, first, group = np.unique(examples.split_groups[of_client], return_index=True, return_inverse=True)
        number = np.argsort(np.argsort(first))[group]  # of the patient, in the order in which patients come
        places.append(of_client[np.argsort(number, kind="stable")])
        numbers[of_client] = number
        counts.append(len(first))
    patients, sizes = np.array(counts, np.int32), np.array([len(one) for one in places], np.int32)
    arrays = examples.arrays if np.array_equal(patients, sizes) else {**examples.arrays, PATIENT: numbers}
    return clients(examples._replace(arrays=arrays), part._replace(places=places))._replace(patients=patients)


def client_table(examples: Labelled, divided: DataSplit) -> Table:
    """Returns a table of the partition: images of each class that train, of all classes that validate and test."""
    held = {
        side: {int(owner): len(places) for owner, places in zip(part.owner, part.places)}
        for side, part in (("validation", divided.validation), ("test", divided.test))
    }
    rows = [
        (name, int(own.sum()), *own.tolist(), *(of_side.get(client, 0) for of_side in held.values()))
        for client, (name, own) in enumerate(zip(divided.train.names, count(examples, divided.train.places)))
    ]
    columns = ("client", "training images", *examples.classes, *(f"{side} images" for side in held))
    return Table("Clients", columns, rows)


def warnings(examples: Labelled, divided: DataSplit) -> Iterator[str]:
    """Yields what is odd about the sides and the clients, a line each."""
    if len(examples.classes) == 1:
        yield f"there is one class, {examples.classes[0]}: a model has nothing to tell apart"
    tested = np.bincount(examples.labels[divided.test.all], minlength=len(examples.classes))
    if untested := [name for name, images in zip(examples.classes, tested) if images == 0]:
        yield f"no test images of {', '.join(untested)}: its accuracy is not measured"
    if idle := sum(len(places) == 0 for places in divided.train.places):
        yield f"{idle} of {len(divided.train.places)} clients have no training images"


def parse_subsets(name: str, splits: Sequence[str], of_each: Iterable[str]) -> list[str]:
    """Returns the subset, TRAINING, VALIDATION or TEST, of each example from the name of its split.

    Raises UserError on a name that says no subset, with what the example is called among `of_each`.
    """
    for split, one in zip(splits, of_each):
        if split.strip().lower() not in SIDE_OF:
            raise UserError(f"{name}: split {split!r} of {one}: give one of {', '.join(SIDE_OF)}")
    return [SIDE_OF[split.strip().lower()] for split in splits]


def merge_groups(*several: np.ndarray) -> np.ndarray:
    """Returns groups int [n]: examples are together where one of `several` groupings [n] has them together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, pairs = len(several[0]), []
    for grouping in several:
        _, first, of = np.unique(grouping, return_index=True, return_inverse=True)
        pairs.append((np.arange(n), first[of]))
    rows, columns = (np.concatenate(ends) for ends in zip(*pairs))
    return connected_components(coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(n, n)), directed=False)[1]


def check_patients(name: str, patients: np.ndarray | None, kept_in: Mapping[str, np.ndarray | None]) -> None:
    """Raises UserError, naming them, where patients [n] are in two sites or splits; `kept_in`: "site" -> str [n]."""
    for what, of_each in kept_in.items():
        if patients is None or of_each is None:
            continue
        pairs = np.unique(np.stack([patients, of_each]), axis=1)
        known, times = np.unique(pairs[0], return_counts=True)
        if several := known[times > 1].tolist():
            some = ", ".join(several[:5]) + (", ..." if len(several) > 5 else "")
            raise UserError(
                f"{name}: {len(several)} patients are in more than one {what} ({some}): put each into one, "
                "or rename those who are different people"
            )


def check_classes(name: str, labels: Sequence[str], classes: tuple[str, ...]) -> None:
    """Raises UserError on the first label that is not among the classes of a model."""
    for label in labels:
        if label not in classes:
            raise UserError(f"{name}: unknown class {label!r}, training knows {', '.join(classes)}")


def with_classes(name: str, examples: Labelled, classes: tuple[str, ...]) -> Labelled:
    """Returns examples with labels that are places in `classes`. Raises UserError on a class that is not among them."""
    there = [examples.classes[label] for label in np.unique(examples.labels)]
    if unknown := [one for one in there if one not in classes]:
        raise UserError(
            f"{name}: unknown class {unknown[0]!r}, training knows {', '.join(classes)}: rename or remove it"
        )
    numbers = np.array([classes.index(one) if one in classes else -1 for one in examples.classes], np.int32)
    return examples._replace(arrays={**examples.arrays, "label": numbers[examples.labels]}, classes=classes)


def one_test(examples: Labelled) -> Test:
    """Returns all examples as the test set of one site that took no part in training."""
    part = ClientSplit([""], np.array([-1], np.int32), [np.arange(len(examples.labels))])
    return Test(clients(examples, part), part.owner)
