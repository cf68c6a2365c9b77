"""The centralised baseline: any source with all its training clients merged into one."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.contract import PATIENT, Batch, ClientData, Federation, Shift, Source, Table, Test, unchanged
from fedjax_mri.data.resident import whole


class PoolStore(NamedTuple):
    """The store of N clients' examples laid end to end."""

    store: Any  # the source's
    start: Any  # int32 [N], first example of each
    end: Any  # int32 [N]
    first_patient: Any  # int32 [N], number of the first patient of each in the pool; zeros where nobody knows


@dataclass(frozen=True)
class Pooled:
    """`source` as one hospital that holds everybody's examples; its test sets stay as they are."""

    source: Source

    def build(self, seed: int) -> Federation:
        """Returns the source's federation as one client. Raises UserError where the source does."""
        federation = self.source.build(seed)
        tests = {name: test._replace(owner=np.full_like(test.owner, -1)) for name, test in federation.tests.items()}
        labels = federation.labels.sum(0, keepdims=True)
        return federation._replace(train=pool(federation.train), tests=tests, labels=labels, groups={})

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the source's own test sets."""
        return self.source.evaluation(classes, seed)


def pool(data: ClientData) -> ClientData:
    """Returns one client whose example i is the i-th of all clients' examples laid end to end."""
    end = np.cumsum(data.sizes, dtype=np.int32)
    patients = None if data.patients is None else np.cumsum(data.patients, dtype=np.int32)
    first = np.zeros_like(end) if patients is None else patients - np.asarray(data.patients)
    store = PoolStore(whole(data), end - data.sizes, end, first)
    shift = shifter(store, data.shift)
    return ClientData(
        end[-1:], store, reader(data.read), shift=shift, patients=None if patients is None else patients[-1:]
    )


@functools.cache  # one function for all pools of a source, so that they can share a program
def reader(read: Callable[..., Batch]) -> Callable[..., Batch]:
    """Returns the `read` of a pool, from the `read` of its source."""

    def pooled(store: PoolStore, client: jax.Array, indices: jax.Array) -> Batch:
        del client
        owner, index = owner_and_index(store, indices)
        batch = jax.vmap(lambda client, index: read(store.store, client, index[None]))(owner, index)
        found = {name: field[:, 0] for name, field in batch.items()}
        if PATIENT in found:
            found[PATIENT] += jnp.take(jnp.asarray(store.first_patient), owner)
        return found

    return pooled


def shifter(pooled_store: PoolStore, shift: Shift) -> Shift:
    """Returns the `shift` of a pool, from the `shift` of its source."""

    def pooled(batch: Batch, client: jax.Array, indices: jax.Array, round: jax.Array) -> Batch:
        del client
        singles = {name: field[:, None] for name, field in batch.items()}
        one = jax.vmap(lambda batch, client, index: shift(batch, client, index[None], round))
        return {name: field[:, 0] for name, field in one(singles, *owner_and_index(pooled_store, indices)).items()}

    return shift if shift is unchanged else pooled


def owner_and_index(pooled_store: PoolStore, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns which client each of `indices` [B] of the pool belongs to, and its index there, int32 [B] both."""
    owner = jnp.searchsorted(jnp.asarray(pooled_store.end), indices, side="right").astype(jnp.int32)
    return owner, indices - jnp.take(jnp.asarray(pooled_store.start), owner)
