"""Examples that lie whole on the device: flat arrays in client order and an offset per client, no padding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.client_data import Batch, ClientData
from fedjax_mri.errors import UserError


class Resident(NamedTuple):
    """The store of resident data: client k owns rows offset[k] to offset[k] + size[k] of every field."""

    fields: dict[str, jax.Array]  # name -> [n, ...]
    offset: jax.Array  # int32 [N]
    size: jax.Array  # int32 [N]


def resident(arrays: dict[str, np.ndarray], parts: list[np.ndarray]) -> ClientData:
    """Client data from arrays [n, ...] and the indices of each of N clients; examples in no part are left out.

    Raises UserError where the parts hold no example at all: a client may be empty, all of them may not.
    """
    sizes = np.array([len(part) for part in parts], np.int32)
    if sizes.sum() == 0:
        raise UserError(f"none of the {len(parts)} clients has an example: give at least one of them data")
    order = np.concatenate([np.asarray(part, np.int64) for part in parts])
    offset = np.cumsum(sizes, dtype=np.int32) - sizes
    fields = {name: jnp.asarray(array[order]) for name, array in arrays.items()}
    return ClientData(sizes, Resident(fields, jnp.asarray(offset), jnp.asarray(sizes)), read)


def read(store: Resident, client: jax.Array, indices: jax.Array) -> Batch:
    """Examples `indices` [B] of one client; past its end its last one again, of an empty client a neighbour's."""
    last = jnp.maximum(store.size[client] - 1, 0)
    row = store.offset[client] + jnp.clip(indices, 0, last)
    # "clip": an empty last client has its offset one past the end.
    return {name: jnp.take(array, row, axis=0, mode="clip") for name, array in store.fields.items()}
