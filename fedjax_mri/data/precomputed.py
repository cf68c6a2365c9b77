"""A procedural source whose examples are computed once and kept: for studies that visit the same few patients often."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
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
    Examples,
    Federation,
    Source,
    Table,
    Test,
    several_of_a_patient,
)
from fedjax_mri.data.resident import Resident, positions, resident, whole
from fedjax_mri.data.resident import read as resident_read

CHUNK = 128  # examples computed at once
WITHOUT_VALUES = ContextVar("WITHOUT_VALUES", default=False)


@dataclass(frozen=True)
class Precomputed:
    """`source` with its examples held in memory as files would hold them: images in bytes, CT in whole HU, labels."""

    source: Source
    fields: tuple[str, ...] = ("image", "label")  # of its examples, the ones that are kept

    def build(self, seed: int) -> Federation:
        """Returns the source's federation, precomputed.

        Raises UserError where the source does, and on a CT of which no HU are known.
        """
        return _built(self, seed, WITHOUT_VALUES.get())

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the source's own test sets, precomputed."""
        tests, tables = self.source.evaluation(classes, seed)
        return _precomputed_tests(tests, self.fields), tables


@functools.lru_cache(8)  # a study wraps the same ones in many ways
def _built(settings: Precomputed, seed: int, without_values: bool) -> Federation:
    del without_values  # `precomputed` reads it, and what it gives must not be taken for the examples
    federation = settings.source.build(seed)
    if "ct" in settings.fields and federation.window is None:
        raise UserError("data: Precomputed keeps CT in whole HU, and the CT of its source is a picture in 0..1; "
                        "give the source by itself")  # fmt: skip
    train, tests = precomputed(federation.train, settings.fields), _precomputed_tests(federation.tests, settings.fields)
    images = tuple(name for name in dict.fromkeys((*federation.images, "ct", "mr")) if name in settings.fields)
    return federation._replace(train=train, tests=tests, images=images)


def _precomputed_tests(tests: Mapping[str, Test], fields: tuple[str, ...]) -> dict[str, Test]:
    return {name: test._replace(data=precomputed(test.data, fields)) for name, test in tests.items()}


def precomputed(data: ClientData, fields: tuple[str, ...] = ("image", "label")) -> ClientData:
    """Returns the same clients, with those fields of their examples in memory."""
    fields = (*fields, PATIENT) if several_of_a_patient(data) and PATIENT not in fields else fields
    if WITHOUT_VALUES.get():
        return of_zeros(data, fields)
    client, index = positions(data.sizes)
    store, several = jax.device_put(whole(data)), _several(data.read, fields)
    chunks = [jax.device_get(several(store, *_chunk(client, index, at))) for at in range(0, len(index), CHUNK)]
    arrays = {name: np.concatenate([chunk[name] for chunk in chunks])[: len(index)] for name in chunks[0]}
    kept = resident(arrays, np.split(np.arange(len(index)), np.cumsum(data.sizes)[:-1]))
    return data._replace(sizes=kept.sizes, store=kept.store, read=kept.read, fetch=kept.fetch)


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Puts zeros of the right shapes in the place of examples within it, where what a run costs is to be known."""
    token = WITHOUT_VALUES.set(True)
    try:
        yield
    finally:
        WITHOUT_VALUES.reset(token)


def of_zeros(data: ClientData, fields: tuple[str, ...]) -> ClientData:
    """Returns the same clients, with examples of zeros that take no memory."""
    at, count = jnp.zeros(1, jnp.int32), int(data.sizes.sum())
    shapes = jax.eval_shape(_several(data.read, fields), whole(data), at, at)
    zeros = {name: np.broadcast_to(np.zeros((), x.dtype), (count, *x.shape[1:])) for name, x in shapes.items()}

    if PATIENT in fields:  # as many patients as there are, whoever has the images
        several = [np.minimum(np.arange(size), count - 1) for size, count in zip(data.sizes, np.asarray(data.patients))]
        zeros[PATIENT] = np.concatenate(several).astype(np.int32)

    def fetch(client: int) -> Examples:
        return {name: x[: data.sizes[client]] for name, x in zeros.items()}

    store = Resident(zeros, np.cumsum(data.sizes, dtype=np.int32) - data.sizes, data.sizes)
    return data._replace(store=store, read=resident_read, fetch=fetch)


def _chunk(client: np.ndarray, index: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.minimum(np.arange(start, start + CHUNK), len(index) - 1)
    return client[chosen], index[chosen]


@functools.cache  # one program for all that are read alike
def _several(read: Callable[..., Batch], fields: tuple[str, ...]) -> Callable[..., Batch]:
    def one(store: Any, client: jax.Array, index: jax.Array) -> Batch:
        batch = read(store, client, index[None])
        if missing := [name for name in fields if name not in batch]:
            raise UserError(f"data.fields: there is no {', '.join(missing)}; choose of {', '.join(batch)}")
        return {name: _as_filed(name, batch[name][0]) for name in fields}

    return jax.jit(jax.vmap(one, (None, 0, 0)))


def _as_filed(name: str, x: jax.Array) -> jax.Array:
    """Returns an image or a value as a file would hold it."""
    if jnp.issubdtype(x.dtype, jnp.integer) or name not in ("image", "ct", "mr"):
        return x
    return jnp.round(x).astype(jnp.int16) if name == "ct" else jnp.round(255 * jnp.clip(x, 0.0, 1.0)).astype(jnp.uint8)
