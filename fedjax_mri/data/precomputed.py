"""A procedural source whose examples are computed once and kept: for studies that visit the same few patients often."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import (
    PATIENT,
    Batch,
    ClientData,
    Federation,
    Source,
    Table,
    Test,
    several_of_a_patient,
)
from fedjax_mri.data.resident import positions, resident, whole

CHUNK = 128  # examples computed at once


@dataclass(frozen=True)
class Precomputed:
    """`source` with its examples held in memory as files would hold them: images in bytes, CT in whole HU, labels."""

    source: Source
    fields: tuple[str, ...] = ("image", "label")  # of its examples, the ones that are kept

    def build(self, seed: int) -> Federation:
        """The source's federation, precomputed. Raises UserError where the source does."""
        return _built(self, seed)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """The source's own test sets, precomputed."""
        tests, tables = self.source.evaluation(classes, seed)
        return _precomputed_tests(tests, self.fields), tables


@functools.lru_cache(8)  # a study wraps the same ones in many ways
def _built(settings: Precomputed, seed: int) -> Federation:
    federation = settings.source.build(seed)
    train, tests = precomputed(federation.train, settings.fields), _precomputed_tests(federation.tests, settings.fields)
    images = tuple(name for name in dict.fromkeys((*federation.images, "ct", "mr")) if name in settings.fields)
    return federation._replace(train=train, tests=tests, images=images)


def _precomputed_tests(tests: Mapping[str, Test], fields: tuple[str, ...]) -> dict[str, Test]:
    return {name: test._replace(data=precomputed(test.data, fields)) for name, test in tests.items()}


def precomputed(data: ClientData, fields: tuple[str, ...] = ("image", "label")) -> ClientData:
    """The same clients, with those fields of their examples in memory."""
    client, index = positions(data.sizes)
    fields = (*fields, PATIENT) if several_of_a_patient(data) and PATIENT not in fields else fields
    store, read = jax.device_put(whole(data)), _reader(data.read, fields)
    chunks = [read(store, *_chunk(client, index, start)) for start in range(0, len(index), CHUNK)]
    arrays = {name: np.concatenate([chunk[name] for chunk in chunks])[: len(index)] for name in chunks[0]}
    kept = resident(arrays, np.split(np.arange(len(index)), np.cumsum(data.sizes)[:-1]))
    return data._replace(sizes=kept.sizes, store=kept.store, read=kept.read, fetch=kept.fetch)


def _chunk(client: np.ndarray, index: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.minimum(np.arange(start, start + CHUNK), len(index) - 1)
    return client[chosen], index[chosen]


@functools.cache  # one program for all that are read alike
def _reader(read: Callable[..., Batch], fields: tuple[str, ...]) -> Callable[..., dict[str, np.ndarray]]:
    def one(store: Any, client: jax.Array, index: jax.Array) -> Batch:
        batch = read(store, client, index[None])
        if missing := [name for name in fields if name not in batch]:
            raise UserError(f"data.fields: there is no {', '.join(missing)}; choose of {', '.join(batch)}")
        return {name: _as_filed(name, batch[name][0]) for name in fields}

    several = jax.jit(jax.vmap(one, (None, 0, 0)))
    return lambda store, client, index: jax.device_get(several(store, client, index))


def _as_filed(name: str, x: jax.Array) -> jax.Array:
    """An image or a value as a file would hold it."""
    if jnp.issubdtype(x.dtype, jnp.integer) or name not in ("image", "ct", "mr"):
        return x
    return jnp.round(x).astype(jnp.int16) if name == "ct" else jnp.round(255 * jnp.clip(x, 0.0, 1.0)).astype(jnp.uint8)
