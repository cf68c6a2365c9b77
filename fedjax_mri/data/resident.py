"""Examples that lie flat in memory: rows of one client after another and an offset per client, no padding."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Batch, ClientData, Examples


class Resident(NamedTuple):
    """The store of resident data: client k owns rows offset[k] to offset[k] + size[k] of every field."""

    fields: dict[str, Any]  # name -> [n, ...]
    offset: Any  # int32 [N]
    size: Any  # int32 [N]


def resident(arrays: Mapping[str, np.ndarray], parts: Sequence[np.ndarray]) -> ClientData:
    """Returns client data from arrays [n, ...] and the indices of each of N clients; examples in no part are left out.

    Raises UserError where the parts hold no example at all (a client may be empty, all of them may not), and on arrays
    that are of no numbers or too short.
    """
    check_arrays(arrays, parts)
    sizes = count(parts)
    store = pack([{name: array[part] for name, array in arrays.items()} for part in parts])
    ends = store.offset + sizes

    def fetch(client: int) -> Examples:
        return {name: field[store.offset[client] : ends[client]] for name, field in store.fields.items()}

    return ClientData(sizes, store, read, fetch)


def check_arrays(arrays: Mapping[str, np.ndarray], parts: Sequence[np.ndarray]) -> None:
    """Raises UserError where arrays [n, ...] differ in n, hold no numbers, or are shorter than the clients' indices."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        each = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise UserError(f"the arrays of the examples differ in length: {each}; give a row for each example")
    for name, array in arrays.items():
        if np.dtype(array.dtype).kind in "OSUMmc":
            raise UserError(f"array {name!r} is of {array.dtype}: give integers, floats or bools")
    rows = min(lengths.values())
    for client, part in enumerate(parts):
        if len(part) and not (int(np.min(part)) >= 0 and int(np.max(part)) < rows):
            raise UserError(
                f"client {client} has indices from {np.min(part)} to {np.max(part)}: give 0 to {rows - 1}, as there "
                f"are {rows} examples"
            )


def count(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the sizes int32 [N] of N parts. Raises UserError where all are empty."""
    sizes = np.array([len(part) for part in parts], np.int32)
    if sizes.sum() == 0:
        raise UserError(f"none of the {len(parts)} clients has an example: give at least one of them data")
    return sizes


def pack(several: Sequence[Examples], clients: int = 0, rows: int = 0) -> Resident:
    """Returns the store of several clients, one at least, with zeros and empty clients up to `clients` and `rows`."""
    size = np.zeros(max(clients, len(several)), np.int32)
    size[: len(several)] = [len(next(iter(examples.values()))) for examples in several]
    fields = {name: flat([one[name] for one in several], max(rows, size.sum())) for name in several[0]}
    return Resident(fields, np.cumsum(size, dtype=np.int32) - size, size)


def flat(pieces: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Returns pieces [size, ...] laid end to end in [rows, ...], then zeros.

    The dtype is the one that JAX will hold them in.
    """
    room = np.zeros((rows, *pieces[0].shape[1:]), jax.dtypes.canonicalize_dtype(pieces[0].dtype))
    np.concatenate(pieces, out=room[: sum(map(len, pieces))], casting="same_kind")
    return room


def positions(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the client of each of n examples, and its index there; int32 [n] both, one client after another."""
    client = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return client, (np.arange(len(client)) - starts).astype(np.int32)


def whole(data: ClientData) -> Any:
    """Returns the store that holds the examples of all clients."""
    if data.store is not None or data.fetch is None:
        return data.store
    return pack([data.fetch(client) for client in range(len(data.sizes))])


def empty(data: ClientData) -> Examples:
    """Returns the fields [0, ...] of data that can be fetched, for their names, shapes and dtypes."""
    assert data.fetch is not None
    return {name: field[:0] for name, field in data.fetch(int(np.argmin(data.sizes))).items()}


def read(store: Resident, client: jax.Array, indices: jax.Array) -> Batch:
    """Returns the examples `indices` [B] of one client; past its end its last one, of an empty client a neighbour's."""
    offset, size = jnp.take(store.offset, client), jnp.take(store.size, client)
    row = offset + jnp.clip(indices, 0, jnp.maximum(size - 1, 0))
    # "clip": an empty last client has its offset one past the end.
    return {name: jnp.take(array, row, axis=0, mode="clip") for name, array in store.fields.items()}


def example_fields(data: ClientData) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and type of each field of a batch of one example, by tracing `read`."""
    store, zero = specimen(data) if data.store is None else data.store, jnp.int32(0)
    found: dict[str, jax.ShapeDtypeStruct] = jax.eval_shape(
        lambda store: data.read(store, zero, jnp.zeros(1, jnp.int32)), store
    )
    return found


def specimen(data: ClientData) -> Any:
    """Returns a small store from which the shapes of what `read` gives can be traced; its examples may not be real."""
    return data.store if data.fetch is None else pack([empty(data)], rows=1)
