"""Attacks on data: what attackers read to train on, and the test set on which success is measured."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import keys as random_keys
from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import resident
from fedjax_mri.data.contract import VALIDATION, Batch, ClientData, Federation, Test
from fedjax_mri.data.resident import Resident
from fedjax_mri.fed.attack.contract import Attack
from fedjax_mri.fed.uplink.contract import PyTree

SUCCESS = "attack success"  # name of the test set whose accuracy is the attack's success rate


def poisoned(data: ClientData, settings: Any, classes: int, attacking: jax.Array) -> ClientData:
    """Returns the data as clients read it when those `attacking`, bool [N], do; unchanged without an attack on data.

    Raises UserError if examples lack what the attack changes.
    """
    attack: Attack | None = settings.build(classes)
    if attack is None:
        return data
    if attack.repeats > 1:
        data = data._replace(pick=lambda indices, client, size: copies_of_few(indices, size, attack, attacking[client]))
    if attack.poison is None:
        return data
    poison, before = attack.poison, data.shift
    refuse_lacking(data, attack)

    def shift(batch: Batch, client: jax.Array, indices: jax.Array, round: jax.Array) -> Batch:
        batch = before(batch, client, indices, round)
        keys = random_keys.fold_in_each(jax.random.fold_in(jax.random.key(settings.seed), client), indices)
        chance = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 0)))(keys)
        return trees.select(attacking[client] & (chance < attack.poisoned), poison(batch, keys), batch)

    return data._replace(shift=shift)


def copies_of_few(indices: jax.Array, size: jax.Array, attack: Attack, attacking: jax.Array) -> jax.Array:
    """Returns the examples int32 [B] that a client reads in place of `indices`: if attacking, the first of `size`."""
    few = jnp.maximum(size // attack.repeats, 1)
    return jnp.where(attacking & (indices < size), indices % few, indices)


def refuse_lacking(data: ClientData, attack: Attack) -> None:
    """Raises UserError if examples lack a field that the attack changes."""
    fields = resident.example_fields(data)
    if lacking := [name for name in attack.fields if name not in fields]:
        raise UserError(
            f"attack {attack.name}: it changes {lacking[0]!r}, which these data lack; choose an attack on updates, "
            "such as --fed.attack signflip"
        )


def refuse_unread(attack: Attack | None, reads: Mapping[str, Any]) -> None:
    """Raises UserError if the attack changes a field of examples that the task does not read, as `reads` says."""
    if attack and (unread := [name for name in attack.fields if reads and name not in reads]):
        raise UserError(
            f"attack {attack.name}: it changes {unread[0]!r}, which this task does not read; choose an attack on "
            "updates, such as --fed.attack signflip"
        )


def with_success_test(federation: Federation, settings: Any) -> Federation:
    """Returns the federation with a test set whose accuracy is the attack's success rate, if the attack has one.

    It holds the examples of the first test set that the attack gives another label, as the attack makes them. Who
    attacks does not matter.
    """
    attack: Attack | None = settings.build(len(federation.classes))
    if attack is None or not attack.measured:
        return federation
    refuse_lacking(federation.train, attack)
    found = success_test(next(iter(federation.tests.values())), settings, len(federation.classes))
    tests = {**{name: test for name, test in federation.tests.items() if name != VALIDATION}, SUCCESS: found}
    return federation._replace(tests={**tests, **federation.tests})


def success_test(test: Test, settings: Any, classes: int) -> Test:
    """Returns the poisoned examples of a test set whose label changes. Raises UserError if there are none."""
    read = poisoned_reader(test.data.read, replace(settings, share=0.0, clients=()), classes)
    store, sizes = resident.whole(test.data), test.data.sizes

    def changes(store: PyTree, example: tuple[jax.Array, jax.Array]) -> jax.Array:
        client, index = example[0], example[1][None]
        everything = Resident({"index": index}, jnp.zeros_like(sizes), jnp.ones_like(sizes))
        poisoned = read((store, everything), client, jnp.zeros_like(index))["label"]
        return (poisoned != test.data.read(store, client, index)["label"])[0]

    client, index = resident.positions(sizes)
    each = jax.jit(lambda store, *examples: jax.lax.map(partial(changes, store), examples, batch_size=256))
    changed = np.asarray(each(store, client, index))
    if not changed.any():
        raise UserError(
            f"attack.{type(settings).__name__.lower()}: no test example is of a class that it changes; choose other "
            "classes"
        )
    chosen = resident.pack([{"index": index[changed & (client == one)]} for one in range(len(sizes))])
    return Test(ClientData(chosen.size, (store, chosen), read), test.owner)


@functools.cache  # one function for all that are read alike, so that they can share a program
def poisoned_reader(inner: Callable[..., Batch], settings: Any, classes: int) -> Callable[..., Batch]:
    """Returns a `read` of the chosen ones of what `inner` reads, as the attack makes them."""
    poison = settings.build(classes).poison

    def read(store: tuple[PyTree, Resident], client: jax.Array, indices: jax.Array) -> Batch:
        batch = inner(store[0], client, resident.read(store[1], client, indices)["index"])
        poisoned: Batch = poison(batch, jax.random.split(jax.random.key(0), len(indices)))  # it draws nothing
        return poisoned

    return read
