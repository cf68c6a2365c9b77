"""Where examples lie: all on every device, a share on each, or only the cohort's, sent while the round before runs.

Sharded and streamed are one thing: some clients are dealt to devices by their number of examples, and each device gets
a store of its own. Sharded does that once with all clients, streamed before each round with its cohort.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import resident
from fedjax_mri.data.contract import Batch, ClientData, Examples
from fedjax_mri.fed.engine.plan import AXIS, Plan
from fedjax_mri.fed.engine.schedule import longest_first

PyTree = Any


class Placed(NamedTuple):
    """Examples on the devices, and the way to each client's."""

    store: PyTree  # what `read` needs; divided, each leaf has a leading axis [devices]
    home: Any  # int32 [N], the device that holds a client's examples; -1: any, or none
    number: Any  # int32 [N], the client's number in the store there
    size: Any  # int32 [N], examples of each


class StoreShape(NamedTuple):
    """Of the store on one device."""

    clients: int
    rows: int


def place_examples(data: ClientData, plan: Plan) -> Placed:
    """All examples on the devices, as `plan.data` "replicated" or "sharded" says."""
    if plan.data == "sharded":
        everyone = np.arange(len(data.sizes), dtype=np.int32)
        return divide_examples(data, plan, everyone, data.sizes, store_shape(data, plan, len(everyone)))
    return plan.put(all_examples(data))


def all_examples(data: ClientData) -> Placed:
    """All examples, as every device is to hold them, on the host."""
    everyone = np.arange(len(data.sizes), dtype=np.int32)
    return Placed(resident.whole(data), np.full_like(everyone, -1), everyone, data.sizes)


def divide_examples(data: ClientData, plan: Plan, clients: np.ndarray, sizes: np.ndarray, room: StoreShape) -> Placed:
    """`clients` int32 [K] with `sizes` int32 [K] dealt out to the devices, in a store of the same `room` on each.

    Those of size 0 go nowhere, so that clients who are absent are not fetched.
    """
    home = np.full(len(data.sizes), -1, np.int32)
    number = np.zeros(len(data.sizes), np.int32)
    shares = deal_to_devices(sizes, plan.devices)
    for device, share in enumerate(shares):
        home[clients[share]], number[clients[share]] = device, np.arange(len(share))
    store = build_on_devices(plan, lambda device: resident.pack(fetch_examples(data, clients[shares[device]]), *room))
    return Placed(store, *plan.put((home, number, data.sizes)))


def deal_to_devices(sizes: np.ndarray, devices: int) -> list[np.ndarray]:
    """For each device the places, of K with `sizes` int32 [K], that it takes; empty ones go nowhere."""
    with jax.default_device(host_device()):
        order, start, stop = map(np.asarray, _deal(sizes, devices))
    return [order[a:b] for a, b in zip(start, stop)]


_deal = jax.jit(longest_first, static_argnums=1)


def host_device() -> jax.Device:
    """The processor, for small computations that must not queue behind a round. Raises UserError where JAX has none."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        raise UserError(
            "plan.data, plan.clients: the host's part needs JAX's cpu platform: add cpu to JAX_PLATFORMS"
        ) from None


def fetch_examples(data: ClientData, clients: np.ndarray) -> list[Examples]:
    """Examples of each of `clients`; of none, one client without any. Those not in memory are read side by side."""
    assert data.fetch is not None
    if not len(clients):
        return [resident.empty(data)]
    if data.store is not None:
        return [data.fetch(int(client)) for client in clients]
    import grain

    wanted = grain.MapDataset.source([int(client) for client in clients]).map(data.fetch)
    return list(wanted.to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=32)))


def build_on_devices(plan: Plan, make: Callable[[int], PyTree]) -> PyTree:
    """`make(device)` of each device of this process on it, as one tree of arrays with a leading axis [devices]."""
    devices = enumerate(plan.mesh().devices.flat)
    mine = [(number, device) for number, device in devices if device.process_index == jax.process_index()]
    shards = [jax.device_put(jax.tree.map(lambda x: x[None], make(number)), device) for number, device in mine]

    def join(*leaves: jax.Array) -> jax.Array:
        full = (plan.devices, *leaves[0].shape[1:])
        return jax.make_array_from_single_device_arrays(full, plan.divided(), list(leaves))

    return jax.tree.map(join, *shards)


def store_shape(data: ClientData, plan: Plan, cohort: int) -> StoreShape:
    """Room on each device for any `cohort` clients; of longest first, no device gets more than a mean and the largest.

    A cohort of everyone is known, so that its room is exact.
    """
    sizes = np.sort(data.sizes)[::-1][:cohort]
    if cohort == len(data.sizes):
        shares = deal_to_devices(sizes, plan.devices)
        return StoreShape(max(map(len, shares)), max(1, *(int(sizes[share].sum()) for share in shares)))
    total = int(sizes.sum())
    return StoreShape(cohort, min(total, total // plan.devices + int(sizes[0])))


def with_placed_reader(data: ClientData) -> ClientData:
    """`data` whose `read` takes what a device sees of a `Placed`."""

    def read(here: Placed, client: jax.Array, indices: jax.Array) -> Batch:
        return data.read(here.store, here.number[client], indices)

    return data._replace(read=read)


def device_view(seen: Placed, plan: Plan) -> Placed:
    """What one device sees, without the axis of devices."""
    return seen if plan.data == "replicated" else seen._replace(store=jax.tree.map(lambda x: x[0], seen.store))


def partition_specs(plan: Plan) -> Placed:
    """Which parts of a `Placed` are divided among devices."""
    whole, mine = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    return Placed(whole if plan.data == "replicated" else mine, whole, whole, whole)


def streamed_shapes(data: ClientData, plan: Plan, cohort: int) -> Placed:
    """Shapes and dtypes of what a streamed round is given."""
    one = resident.pack([resident.empty(data)], *store_shape(data, plan, cohort))
    store = jax.tree.map(lambda x: jax.ShapeDtypeStruct((plan.devices, *x.shape), x.dtype), one)
    table = jax.ShapeDtypeStruct(data.sizes.shape, jnp.int32)
    return Placed(store, table, table, table)


def prefetch(make: Callable[[int], PyTree]) -> Callable[[int], PyTree]:
    """`make` of round numbers asked for in turn: while one is in use Grain makes the next, and never a third."""
    started: dict[int, Iterator[PyTree]] = {}

    def ask(number: int) -> PyTree:
        rounds = started.get(number) or start(number)
        started.clear()
        started[number + 1] = rounds
        return next(rounds)

    def start(number: int) -> Iterator[PyTree]:
        import grain

        numbers = grain.MapDataset.range(number, np.iinfo(np.int32).max)
        return iter(numbers.map(make).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)))

    return ask


def check_memory(data: ClientData, plan: Plan, cohort: int, kept: PyTree) -> None:
    """Raises UserError where data cannot be divided, or examples and the state `kept` by clients do not fit."""
    if plan.data != "replicated" and data.fetch is None:
        raise UserError(
            f"plan.data={plan.data}: these examples are computed where they are read, or not kept by client; "
            "choose --plan.data replicated"
        )
    state = trees.nbytes(kept) if plan.clients == "device" else 0
    examples, budget = example_bytes(data, plan, cohort), plan.budget()
    if examples + state > budget:
        raise UserError(
            f"plan.data={plan.data}, plan.clients={plan.clients}: each device would hold {examples / 1e6:.1f} MB of "
            f"examples and {state / 1e6:.1f} MB of client state, {(examples + state - budget) / 1e6:.1f} MB more than "
            f"its {budget / 1e6:.1f}; {placement_that_fits(data, plan, cohort, state)}"
        )


def placement_that_fits(data: ClientData, plan: Plan, cohort: int, state: int) -> str:
    """The first other placement that fits."""
    others = [replace(plan, data="replicated")]
    if data.fetch is not None:
        others += [replace(plan, data="sharded"), replace(plan, data="streamed")]
    for clients, held in (("device", state), ("host", 0)):
        for other in others:
            if example_bytes(data, other, cohort) + held <= plan.budget():
                return f"choose --plan.data {other.data} --plan.clients {clients}"
    return "choose a smaller sampling.cohort"


def example_bytes(data: ClientData, plan: Plan, cohort: int) -> int:
    """Bytes of examples on one device; streamed, of a round's and the next one's."""
    if data.fetch is None:
        return trees.nbytes(data.store)
    row = sum(field.itemsize * int(np.prod(field.shape[1:])) for field in resident.empty(data).values())
    if plan.data == "replicated":
        return int(data.sizes.sum()) * row
    rounds, clients = (2, cohort) if plan.data == "streamed" else (1, len(data.sizes))
    return rounds * store_shape(data, plan, clients).rows * row
