"""Where examples lie: replicated on every device, sharded over devices, or streamed.

Streamed data are the cohort's examples alone, sent to the devices while the round before runs. Sharded and streamed
data share their code: clients are dealt to devices by number of examples, and each device gets a store of its own.
Sharded data do this once with all clients, streamed data before each round with its cohort.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import devices, memory, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import resident
from fedjax_mri.data.contract import Batch, ClientData, Examples
from fedjax_mri.fed.engine.plan import AXIS, DoesNotFit, Plan
from fedjax_mri.fed.engine.schedule import longest_first

PyTree = Any


class PlacedData(NamedTuple):
    """Examples on the devices, and where those of each client lie."""

    store: PyTree  # what `read` needs; if divided among devices, each leaf has a leading axis [devices]
    home: Any  # int32 [N], the device that holds a client's examples; -1: all devices, or none
    number: Any  # int32 [N], the client's number in the store of that device
    size: Any  # int32 [N], examples of each client


class MemoryNeed(NamedTuple):
    """Bytes for examples and client state."""

    device: float  # on each device
    host: float  # of each process


class StoreShape(NamedTuple):
    """Size of the store on one device."""

    clients: int
    rows: int


def place_examples(data: ClientData, plan: Plan) -> PlacedData:
    """Returns all examples on the devices, replicated or sharded as `plan.data` says."""
    if plan.data == "sharded":
        everyone = np.arange(len(data.sizes), dtype=np.int32)
        return divide_examples(data, plan, everyone, data.sizes, store_shape(data, plan, len(everyone)))
    return plan.replicate(all_examples(data))


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
    return PlacedData(store, *plan.replicate((home, number, data.sizes)))


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
        return jax.make_array_from_single_device_arrays(full, plan.sharded_over_devices(), list(leaves))

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


def placed_shapes(data: ClientData, plan: Plan, cohort: int) -> PlacedData:
    """Returns shapes and dtypes of the examples as `plan.data` places them; if streamed, those of `cohort` clients."""
    if plan.data == "replicated":
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), all_examples(data))
    clients = cohort if plan.data == "streamed" else len(data.sizes)
    store_on_device = resident.pack([resident.empty(data)], *store_shape(data, plan, clients))
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
    """Raises UserError if the data cannot be divided, or DoesNotFit if examples and client state exceed the memory.

    `kept` has the shapes of the state of all clients.
    """
    if plan.data != "replicated" and data.fetch is None:
        raise UserError(
            f"plan.data={plan.data}: these examples are computed where they are read, or not kept by client; "
            "choose --plan.data replicated"
        )
    state, limit = trees.nbytes(kept), MemoryNeed(plan.budget(), memory.host_limit().bytes)
    excess = memory_excess(data, plan, cohort, state, limit)
    if excess:
        remedy = placement_that_fits(data, plan, cohort, state, limit)
        raise DoesNotFit(f"plan.data={plan.data}, plan.clients={plan.clients}: {excess}; {remedy}")


def memory_excess(data: ClientData, plan: Plan, cohort: int, state: int, limit: MemoryNeed) -> str:
    """Returns in words what exceeds the `limit` and by how much; nothing if all fits."""
    need = memory_need(data, plan, cohort, state)
    if need.device > limit.device:
        examples, on_device = example_bytes(data, plan, cohort), state if plan.clients == "device" else 0
        return (
            f"each device would hold {examples / 1e6:.1f} MB of examples and {on_device / 1e6:.1f} MB of client state, "
            f"{(need.device - limit.device) / 1e6:.1f} MB more than its {limit.device / 1e6:.1f}"
        )
    if need.host > limit.host:
        return (
            f"the host would hold {need.host / 1e6:.1f} MB, {(need.host - limit.host) / 1e6:.1f} MB more than its "
            f"{limit.host / 1e6:.1f} ({memory.host_limit().source})"
        )
    return ""


def placement_that_fits(data: ClientData, plan: Plan, cohort: int, state: int, limit: MemoryNeed) -> str:
    """Returns a remedy: the first placement that fits, or by how much the one that comes closest does not."""
    places: list[Literal["replicated", "sharded", "streamed"]] = ["replicated"]
    places += ["sharded", "streamed"] if data.fetch is not None else []
    keepers: tuple[Literal["device", "host"], ...] = ("device", "host")
    others = [replace(plan, data=place, clients=clients) for clients in keepers for place in places]
    lacks = list[float]()
    for other in others:
        need = memory_need(data, other, cohort, state)
        lacks.append(max(need.device - limit.device, need.host - limit.host))
    least = min(lacks)
    closest = next(other for other, lack in zip(others, lacks) if lack == least or lack <= 0)
    flags = f"--plan.data {closest.data} --plan.clients {closest.clients}"
    if least <= 0:
        return f"choose {flags}"
    return f"{flags} comes closest and lacks {least / 1e6:.1f} MB; choose a smaller sampling.cohort or fewer clients"


def memory_need(data: ClientData, plan: Plan, cohort: int, state: int) -> MemoryNeed:
    """Returns what a plan needs for examples and for the client state, which has `state` bytes in all.

    The devices of a CPU hold theirs in the memory of the host.
    """
    on_device = example_bytes(data, plan, cohort) + (state if plan.clients == "device" else 0)
    on_host = state if plan.clients == "host" else 0
    here = devices.current()
    if here.platform == "cpu":
        on_host += on_device * plan.devices // here.processes
    return MemoryNeed(on_device, on_host)


def example_bytes(data: ClientData, plan: Plan, cohort: int) -> int:
    """Returns bytes of examples on one device; for streamed data those of two rounds, this one and the next."""
    if data.fetch is None:
        return trees.nbytes(data.store)
    row = sum(field.itemsize * int(np.prod(field.shape[1:])) for field in resident.empty(data).values())
    if plan.data == "replicated":
        return int(data.sizes.sum()) * row
    rounds, clients = (2, cohort) if plan.data == "streamed" else (1, len(data.sizes))
    return rounds * store_shape(data, plan, clients).rows * row
