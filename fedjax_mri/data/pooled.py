"""The centralised baseline: any source with all its training clients merged into one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.client_data import Batch, ClientData, Federation, Source, Table, Test
from fedjax_mri.data.resident import whole


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
        return federation._replace(train=pool(federation.train), tests=tests, labels=labels, groups={})

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """The source's own."""
        source: Source = self.source
        return source.evaluation(classes, seed)


def pool(data: ClientData) -> ClientData:
    """One client whose example i is the i-th of all clients' examples laid end to end."""
    ends = np.cumsum(data.sizes).astype(np.int32)

    def found(indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        owner = jnp.searchsorted(jnp.asarray(ends), indices, side="right").astype(jnp.int32)
        return owner, indices - jnp.asarray(ends - data.sizes)[owner]

    def read(store: Any, client: jax.Array, indices: jax.Array) -> Batch:
        one = jax.vmap(lambda client, index: data.read(store, client, index[None]))(*found(indices))
        return {name: field[:, 0] for name, field in one.items()}

    def shift(batch: Batch, client: jax.Array, indices: jax.Array, round: jax.Array) -> Batch:
        singles = {name: field[:, None] for name, field in batch.items()}
        one = jax.vmap(lambda batch, client, index: data.shift(batch, client, index[None], round))
        return {name: field[:, 0] for name, field in one(singles, *found(indices)).items()}

    return ClientData(np.array([data.sizes.sum()], np.int32), whole(data), read, shift=shift)
