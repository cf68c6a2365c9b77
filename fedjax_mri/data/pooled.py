"""The centralised baseline: any source with all its training clients merged into one."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.client_data import Batch, ClientData, Federation, Source, Table, Test
from fedjax_mri.data.resident import whole


class Pool(NamedTuple):
    """The store of N clients' examples laid end to end."""

    store: Any  # the source's
    start: Any  # int32 [N], first example of each
    end: Any  # int32 [N]


@dataclass(frozen=True)
class Pooled:
    """`source` as one hospital that holds everybody's examples; its test sets stay as they are."""

    source: Any  # a Source

    def build(self, seed: int) -> Federation:
        """Raises UserError where the source does."""
        source: Source = self.source
        federation = source.build(seed)
        tests = {name: test._replace(owner=np.full_like(test.owner, -1)) for name, test in federation.tests.items()}
        labels = federation.labels.sum(0, keepdims=True)
        return federation._replace(train=pool(federation.train), tests=tests, labels=labels)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """The source's own."""
        source: Source = self.source
        return source.evaluation(classes, seed)


def pool(data: ClientData) -> ClientData:
    """One client whose example i is the i-th of all clients' examples laid end to end."""
    end = np.cumsum(data.sizes, dtype=np.int32)
    return ClientData(end[-1:], Pool(whole(data), end - data.sizes, end), reader(data.read))


@functools.cache  # one function for all pools of a source, so that they can share a program
def reader(read: Callable[..., Batch]) -> Callable[..., Batch]:
    """`read` of a pool of what the given one reads."""

    def pooled(store: Pool, client: jax.Array, indices: jax.Array) -> Batch:
        del client
        owner = jnp.searchsorted(store.end, indices, side="right").astype(jnp.int32)
        index = indices - jnp.take(store.start, owner)
        one = jax.vmap(lambda client, index: read(store.store, client, index[None]))(owner, index)
        return {name: field[:, 0] for name, field in one.items()}

    return pooled
