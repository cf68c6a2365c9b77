"""Where examples lie: replicated on every device, sharded over devices, or streamed.

Streamed data are the cohort's examples alone, sent to the devices while the round before runs. Sharded and streamed
data share their code: clients are dealt to devices by number of examples, and each device gets a store of its own.
Sharded data do this once with all clients, streamed data before each round with its cohort.
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


class PlacedData(NamedTuple):
    """Examples on the devices, and where those of each client lie."""

    store: PyTree  # what `read` needs; if divided among devices, each leaf has a leading axis [devices]
    home: Any  # int32 [N], the device that holds a client's examples; -1: all devices, or none
    number: Any  # int32 [N], the client's number in the store of that device
    size: Any  # int32 [N], examples of each client


class StoreShape(NamedTuple):
    """Size of the store on one device."""

    clients: int
    rows: int


def place_examples(data: ClientData, plan: Plan) -> PlacedData:
    """Returns all examples on the devices, replicated or sharded as `plan.data` says."""
    if plan.data == "sharded":
        everyone = np.arange(len(data.sizes), dtype=np.int32)
        return divide_examples(data, plan, everyone, data.sizes, store_shape(data, plan, len(everyone)))
    return plan.put(all_examples(data))


def all_examples(data: ClientData) -> PlacedData:
    """Returns all examples on the host, in the form in which every device is to hold them."""
    everyone = np.arange(len(data.sizes), dtype=np.int32)
    return PlacedData(resident.whole(data), np.full_like(everyone, -1), everyone, data.sizes)


def divide_examples(
    data: ClientData, plan: Plan, clients: np.ndarray, sizes: np.ndarray, shape: StoreShape
) -> PlacedData:
    """Returns examples of `clients` int32 [K], with `sizes` int32 [K], dealt to stores of one `shape` on the devices.

    Clients of size 0 are dealt to no device, so that the examples of absent clients are not fetched.
    """
    home = np.full(len(data.sizes), -1, np.int32)
    number = np.zeros(len(data.sizes), np.int32)
    shares = deal_to_devices(sizes, plan.devices)
    for device, share in enumerate(shares):
        home[clients[share]], number[clients[share]] = device, np.arange(len(share))
    store = build_on_devices(plan, lambda device: resident.pack(fetch_examples(data, clients[shares[device]]), *shape))
    return PlacedData(store, *plan.put((home, number, data.sizes)))


def deal_to_devices(sizes: np.ndarray, devices: int) -> list[np.ndarray]:
    """Returns for each device the indices of its clients, of K with `sizes` int32 [K]; empty clients are left out."""
    with jax.default_device(host_device()):
        order, start, stop = map(np.asarray, _deal(sizes, devices))
    return [order[a:b] for a, b in zip(start, stop)]


_deal = jax.jit(longest_first, static_argnums=1)


def host_device() -> jax.Device:
    """Returns the CPU, for small computations that must not wait for a round. Raises UserError if JAX has no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        raise UserError(
            "plan.data, plan.clients: the host's part needs JAX's cpu platform: add cpu to JAX_PLATFORMS"
        ) from None


def fetch_examples(data: ClientData, clients: np.ndarray) -> list[Examples]:
    """Returns the examples of each of `clients`; if there are none, those of one empty client.

    Examples that are not in memory are read by several threads.
    """
    assert data.fetch is not None
    if not len(clients):
        return [resident.empty(data)]
    if data.store is not None:
        return [data.fetch(int(client)) for client in clients]
    import grain

    examples = grain.MapDataset.source([int(client) for client in clients]).map(data.fetch)
    return list(examples.to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=32)))


def build_on_devices(plan: Plan, make: Callable[[int], PyTree]) -> PyTree:
    """Returns one tree of arrays [devices, ...] of which each device holds the row that `make(device number)` gives.

    `make` is called for the devices of this process only.
    """
    devices = enumerate(plan.mesh().devices.flat)
    local = [(number, device) for number, device in devices if device.process_index == jax.process_index()]
    shards = [jax.device_put(jax.tree.map(lambda x: x[None], make(number)), device) for number, device in local]

    def join(*leaves: jax.Array) -> jax.Array:
        full = (plan.devices, *leaves[0].shape[1:])
        return jax.make_array_from_single_device_arrays(full, plan.divided(), list(leaves))

    return jax.tree.map(join, *shards)


def store_shape(data: ClientData, plan: Plan, cohort: int) -> StoreShape:
    """Returns the size of a store that has room for a device's share of any `cohort` clients.

    Clients are dealt out longest first, so that no device gets more than the mean of all devices plus the largest
    client. A cohort of everyone is known in advance, and its size is exact.
    """
    sizes = np.sort(data.sizes)[::-1][:cohort]
    if cohort == len(data.sizes):
        shares = deal_to_devices(sizes, plan.devices)
        return StoreShape(max(map(len, shares)), max(1, *(int(sizes[share].sum()) for share in shares)))
    total = int(sizes.sum())
    return StoreShape(cohort, min(total, total // plan.devices + int(sizes[0])))


def with_placed_reader(data: ClientData) -> ClientData:
    """Returns `data` with a `read` whose store is a device's view of a `PlacedData`."""

    def read(placed: PlacedData, client: jax.Array, indices: jax.Array) -> Batch:
        return data.read(placed.store, placed.number[client], indices)

    return data._replace(read=read)


def device_view(placed: PlacedData, plan: Plan) -> PlacedData:
    """Returns what one device sees inside shard_map, without the axis [devices]."""
    return placed if plan.data == "replicated" else placed._replace(store=jax.tree.map(lambda x: x[0], placed.store))


def partition_specs(plan: Plan) -> PlacedData:
    """Returns the partition specs of a `PlacedData`: only a sharded or streamed store is divided among devices."""
    replicated, divided = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    return PlacedData(replicated if plan.data == "replicated" else divided, replicated, replicated, replicated)


def streamed_shapes(data: ClientData, plan: Plan, cohort: int) -> PlacedData:
    """Returns shapes and dtypes of the examples that are sent for a streamed round."""
    store_on_device = resident.pack([resident.empty(data)], *store_shape(data, plan, cohort))
    store = jax.tree.map(lambda x: jax.ShapeDtypeStruct((plan.devices, *x.shape), x.dtype), store_on_device)
    table = jax.ShapeDtypeStruct(data.sizes.shape, jnp.int32)
    return PlacedData(store, table, table, table)


def prefetch(make: Callable[[int], PyTree]) -> Callable[[int], PyTree]:
    """Returns `make` for round numbers in ascending order, with the next result made in the background.

    While one result is in use Grain makes the next, and no more, so that at most two are in memory.
    """
    iterators: dict[int, Iterator[PyTree]] = {}  # the number of the next round -> its iterator; one entry at most

    def get(number: int) -> PyTree:
        rounds = iterators.get(number) or start(number)
        iterators.clear()
        iterators[number + 1] = rounds
        return next(rounds)

    def start(number: int) -> Iterator[PyTree]:
        import grain

        numbers = grain.MapDataset.range(number, np.iinfo(np.int32).max)
        return iter(numbers.map(make).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)))

    return get


def check_memory(data: ClientData, plan: Plan, cohort: int, kept: PyTree) -> None:
    """Raises UserError if the data cannot be divided, or examples and client state exceed the plan's memory.

    `kept` has the shapes of the state of all clients.
    """
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
    """Returns a remedy: the first other placement that fits, or else a smaller cohort."""
    others = [replace(plan, data="replicated")]
    if data.fetch is not None:
        others += [replace(plan, data="sharded"), replace(plan, data="streamed")]
    for clients, state_bytes in (("device", state), ("host", 0)):
        for other in others:
            if example_bytes(data, other, cohort) + state_bytes <= plan.budget():
                return f"choose --plan.data {other.data} --plan.clients {clients}"
    return "choose a smaller sampling.cohort"


def example_bytes(data: ClientData, plan: Plan, cohort: int) -> int:
    """Returns bytes of examples on one device; for streamed data those of two rounds, this one and the next."""
    if data.fetch is None:
        return trees.nbytes(data.store)
    row = sum(field.itemsize * int(np.prod(field.shape[1:])) for field in resident.empty(data).values())
    if plan.data == "replicated":
        return int(data.sizes.sum()) * row
    rounds, clients = (2, cohort) if plan.data == "streamed" else (1, len(data.sizes))
    return rounds * store_shape(data, plan, clients).rows * row
