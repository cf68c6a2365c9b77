"""A procedural source whose examples are computed once and kept: for studies that visit the same few patients often."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.client_data import Batch, ClientData, Federation, Source, Table, Test
from fedjax_mri.data.resident import positions, resident, whole

CHUNK = 128  # examples computed at once


@dataclass(frozen=True)
class Drawn:
    """`source` as resident images, bytes as a file would hold them, and labels."""

    source: Any  # a Source

    def build(self, seed: int) -> Federation:
        """Raises UserError where the source does."""
        source: Source = self.source
        federation = source.build(seed)
        return federation._replace(train=drawn(federation.train), tests=_all(federation.tests))

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """The source's own, drawn."""
        source: Source = self.source
        tests, tables = source.evaluation(classes, seed)
        return _all(tests), tables


def _all(tests: Mapping[str, Test]) -> dict[str, Test]:
    return {name: test._replace(data=drawn(test.data)) for name, test in tests.items()}


def drawn(data: ClientData) -> ClientData:
    """The same clients with their examples in memory."""
    client, index = positions(data.sizes)
    store, read = jax.device_put(whole(data)), _reader(data.read)
    chunks = [read(store, *_chunk(client, index, start)) for start in range(0, len(index), CHUNK)]
    arrays = {name: np.concatenate([chunk[name] for chunk in chunks])[: len(index)] for name in chunks[0]}
    kept = resident(arrays, np.split(np.arange(len(index)), np.cumsum(data.sizes)[:-1]))
    return data._replace(sizes=kept.sizes, store=kept.store, read=kept.read, fetch=kept.fetch)


def _chunk(client: np.ndarray, index: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.minimum(np.arange(start, start + CHUNK), len(index) - 1)
    return client[chosen], index[chosen]


@functools.cache  # one program for all that are read alike
def _reader(read: Callable[..., Batch]) -> Callable[..., dict[str, np.ndarray]]:
    def one(store: Any, client: jax.Array, index: jax.Array) -> Batch:
        batch = read(store, client, index[None])
        return {"image": _as_bytes(batch["image"][0]), "label": batch["label"][0]}

    several = jax.jit(jax.vmap(one, (None, 0, 0)))
    return lambda store, client, index: jax.device_get(several(store, client, index))


def _as_bytes(image: jax.Array) -> jax.Array:
    if jnp.issubdtype(image.dtype, jnp.integer):
        return image
    return jnp.round(255 * jnp.clip(image, 0.0, 1.0)).astype(jnp.uint8)
