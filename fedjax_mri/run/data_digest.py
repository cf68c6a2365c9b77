"""What the data of a run were, in a few words and hashes: a run goes on with the data that it began with."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import ClientData, Federation

FEW = 3  # clients whose examples are looked at where these stay in files


class DataDigest(NamedTuple):
    """Texts that are equal for equal data."""

    classes: str  # names, in the order of the labels
    training: str  # examples and clients
    partition: str  # hash of how many examples of which class each client has
    tests: str  # name and size of each test set, and a hash of their clients' sizes
    contents: str  # hash of the examples; "synthetic" for data that settings and seed determine


def data_digest(federation: Federation) -> DataDigest:
    """Returns the digest of a federation."""
    sizes = np.asarray(federation.train.sizes)
    counts = {name: test.data.sizes.tolist() for name, test in federation.tests.items()}
    named = ", ".join(f"{name} {sum(each)} examples" for name, each in counts.items())
    data = (federation.train, *(test.data for test in federation.tests.values()))
    return DataDigest(
        classes=", ".join(federation.classes),
        training=f"{sizes.sum()} examples of {len(sizes)} clients",
        partition=short_hash(repr((sizes.tolist(), np.asarray(federation.labels).tolist())).encode()),
        tests=f"{named} ({short_hash(repr(counts).encode())})",
        # Computed examples may differ in the last bit between machines, on which a run may go on.
        contents="synthetic" if federation.synthetic else short_hash(*(part for one in data for part in contents(one))),
    )


def contents(data: ClientData) -> list[bytes]:
    """Returns digests of the examples in host memory; of a few clients where they are fetched from elsewhere."""
    if data.store is not None:
        arrays = [leaf for leaf in jax.tree.leaves(data.store) if isinstance(leaf, np.ndarray)]
    else:
        assert data.fetch is not None, "a source without a store fetches"
        some = np.unique(np.linspace(0, len(data.sizes) - 1, FEW).astype(int))
        arrays = [field for client in some for _, field in sorted(data.fetch(int(client)).items())]
    return [hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest() for array in arrays if array.size]


def short_hash(*parts: bytes) -> str:
    """Returns twelve hex digits that name a sequence of bytes."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:12]


def data_differences(before: Mapping[str, Any], now: DataDigest) -> list[str]:
    """Returns what of the data differs, as "name: before -> now"; fields that an older run did not save are skipped."""
    found = {name: (before[name], value) for name, value in now._asdict().items() if name in before}
    return [f"{name}: {old} -> {new}" for name, (old, new) in found.items() if old != new]


def refuse_other_data(run: Any, before: Mapping[str, Any], now: DataDigest) -> None:
    """Raises UserError, naming what differs, where a run would go on with other data than it began with."""
    differing = data_differences(before, now)
    if differing:
        raise UserError(
            f"{run}: the data have changed since this run began ({'; '.join(differing)}); put them back as they were, "
            "or choose another --out"
        )


def refuse_other_classes(run: Any, before: Sequence[str], now: Sequence[str]) -> None:
    """Raises UserError where data have other classes, or in another order, than the model of a run."""
    if tuple(before) != tuple(now):
        raise UserError(
            f"{run}: its model knows the classes {', '.join(before)}, and the data have {', '.join(now)}: give data of "
            "the same classes"
        )
