"""Examples that stay where they are, in memory-mapped files or behind a Grain data source, until a client is called."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import ClientData, Examples
from fedjax_mri.data.resident import check_arrays, count, read


class Records(Protocol):
    """Examples by number, each a dict of fields: any Grain data source of such records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Mapping[str, Any]: ...


def streamed(source: Mapping[str, np.ndarray] | Records, parts: Sequence[np.ndarray]) -> ClientData:
    """Returns client data from arrays [n, ...] or n records, and the indices of each of N clients.

    Arrays may be memory-mapped.

    Nothing is read here. Raises UserError where the parts hold no example at all, and later for an unreadable record.
    """
    if isinstance(source, Mapping):
        check_arrays(source, parts)
    sizes = count(parts)

    def fetch(client: int) -> Examples:
        if isinstance(source, Mapping):
            return {name: np.asarray(array[parts[client]]) for name, array in source.items()}
        return stacked(source, parts[client])

    return ClientData(sizes, None, read, fetch)


def stacked(source: Records, indices: np.ndarray) -> Examples:
    """Returns records `indices` [size] stacked as fields [size, ...]; no indices give empty fields [0, ...]."""
    records = [record(source, int(index)) for index in indices] or [record(source, 0)]
    return {name: np.stack([one[name] for one in records])[: len(indices)] for name in records[0]}


def record(source: Records, index: int) -> Mapping[str, Any]:
    """Returns the record of that index. Raises UserError, naming it, when it cannot be read."""
    try:
        return source[index]
    except Exception as error:  # whatever the user's source raises
        raise UserError(f"record {index} of {type(source).__name__} cannot be read: {error}") from error
