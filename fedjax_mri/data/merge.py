"""Classes of a source merged or renamed: one tumour class of three, say, or the names that another source has."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import resident
from fedjax_mri.data.contract import Batch, ClientData, Examples, Federation, Source, Table, Test


@dataclass(frozen=True)
class MergeClasses:
    """`source` with its classes renamed; classes that get the same name become one.

    Every class of the source needs a name, so that none is left out by a slip. Names of classes that the source does
    not have may be there as well: spellings that another folder uses.
    """

    source: Source
    names: tuple[tuple[str, str], ...] = ()  # (class of the source, its new name)

    def build(self, seed: int) -> Federation:
        """Returns the source's federation with merged classes. Raises UserError on a class that is given no name."""
        federation, names = self.source.build(seed), dict(self.names)
        for one in federation.classes:
            if one not in names:
                raise UserError(f"data.names: no new name for class {one!r}; name {', '.join(federation.classes)}")
        classes = tuple(dict.fromkeys(names[one] for one in federation.classes))
        table = positions_in(classes, [names[one] for one in federation.classes])
        labels = federation.labels @ np.eye(len(classes), dtype=federation.labels.dtype)[table]
        return federation._replace(
            train=relabelled(federation.train, table),
            tests=relabelled_tests(federation.tests, table),
            classes=classes,
            labels=labels,
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the source's test sets, labelled by merged `classes`. Raises UserError where the source does."""
        known = [(old, new) for old, new in self.names if new in classes]
        tests, tables = self.source.evaluation(tuple(old for old, _ in known), seed)
        return relabelled_tests(tests, positions_in(classes, [new for _, new in known])), tables


def positions_in(classes: tuple[str, ...], names: list[str]) -> np.ndarray:
    """Returns the position of each name among the classes, int32 [len(names)]."""
    return np.array([classes.index(name) for name in names], np.int32)


def relabelled_tests(tests: Mapping[str, Test], table: np.ndarray) -> dict[str, Test]:
    """Returns test sets with other labels: label c becomes table[c]."""
    return {name: test._replace(data=relabelled(test.data, table)) for name, test in tests.items()}


def relabelled(data: ClientData, table: np.ndarray) -> ClientData:
    """Returns client data with other labels: label c becomes table[c], int32 [C].

    Examples in memory stay where they are.
    """
    if np.array_equal(table, np.arange(len(table))):
        return data
    if data.read is not resident.read:
        return data._replace(store=(resident.whole(data), table), read=_reader(data.read), fetch=None)
    fetch = data.fetch and functools.partial(_fetched, data.fetch, table)
    store = data.store and data.store._replace(fields=_with_labels(data.store.fields, table))
    return data._replace(store=store, fetch=fetch)


def _with_labels(fields: Mapping[str, Any], table: np.ndarray) -> dict[str, Any]:
    return {**fields, "label": table[fields["label"]]}


def _fetched(fetch: Callable[[int], Examples], table: np.ndarray, client: int) -> Examples:
    return _with_labels(fetch(client), table)


@functools.cache  # one function for all that are read alike, so that they can share a program
def _reader(inner: Callable[..., Batch]) -> Callable[..., Batch]:
    def read(store: tuple[Any, Any], client: jax.Array, indices: jax.Array) -> Batch:
        batch = inner(store[0], client, indices)
        return {**batch, "label": jnp.take(jnp.asarray(store[1]), batch["label"])}

    return read
