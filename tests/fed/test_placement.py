"""Examples divided among devices or sent by cohort: whole clients, within the room promised, within the budget."""

import threading

import jax
import numpy as np
import pytest
from simulations import SIZES, images, procedural, simulation, two_players

from fedjax_mri.core import memory
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import ClientData
from fedjax_mri.data.resident import resident
from fedjax_mri.data.streamed import streamed
from fedjax_mri.fed.engine import placement, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import State, check_simulation, initial_state
from fedjax_mri.fed.sampling import Population, Uniform

ROOT = jax.random.key(3)


def test_a_device_holds_its_share_and_no_more() -> None:
    plan = Plan(devices=4, data="sharded").resolve()
    found = placement.place_examples(images(), plan)
    held = [SIZES[np.asarray(found.home) == device].sum() for device in range(4)]
    assert sum(held) == SIZES.sum() and max(held) == SIZES.max()
    pixels = found.store.fields["image"]
    assert {shard.data.shape for shard in pixels.addressable_shards} == {(1, SIZES.max(), 8, 8, 1)}


@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_any_cohort_fits_the_room_and_no_device_gets_more_than_a_mean_and_the_largest(devices, sigma) -> None:
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.lognormal(3, sigma, 100), 5000).astype(np.int32)
    data, plan = ClientData(sizes, (), images().read), Plan(devices=devices, data="streamed").resolve()
    room = placement.store_shape(data, plan, 10)
    for _ in range(20):
        cohort = rng.choice(100, 10, replace=False)
        shares = placement.deal_to_devices(sizes[cohort], devices)
        assert sorted(np.concatenate(shares)) == sorted(np.flatnonzero(sizes[cohort]))
        assert max(map(len, shares)) <= room.clients
        assert max(sizes[cohort][share].sum() for share in shares) <= room.rows


def test_the_next_round_is_made_while_one_is_in_use_and_never_a_third() -> None:
    made: list[int] = []
    started = {number: threading.Event() for number in range(12)}

    def make(number: int) -> int:
        made.append(number)
        started[int(number)].set()
        return int(number) * 10

    ask = placement.prefetch(make)
    for number in (4, 5, 6):
        assert ask(number) == 10 * number
        assert started[number + 1].wait(30)  # without being asked for
        assert made == list(range(4, number + 2))
    assert ask(9) == 90  # a run that goes on elsewhere starts anew


def large(folder) -> dict[str, np.ndarray]:
    """10 MB of noise in memory-mapped files."""
    rng, count = np.random.default_rng(0), 150_000
    np.save(folder / "image.npy", rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8))
    np.save(folder / "label.npy", rng.integers(0, 3, count).astype(np.int32))
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "label")}


def test_data_ten_times_the_budget_of_a_device_gives_what_resident_data_does(tmp_path) -> None:
    arrays, parts = large(tmp_path), np.split(np.random.default_rng(1).permutation(150_000), 300)
    few = simulation(two_players(), images(), sampler=Uniform(4).build(Population(np.ones(300, np.int32))))
    few = few._replace(local=few.local._replace(batch=100))

    def trained(data: ClientData, plan: Plan) -> State:
        sim = few._replace(data=data)
        check_simulation(sim, plan.resolve())
        return segments.build(sim, plan.resolve(), ROOT, 3)(initial_state(sim, plan.resolve(), ROOT), 3)[0]

    tight = Plan(devices=2, lanes=2, memory_mb=1, data="streamed")
    ours = trained(streamed(arrays, parts), tight)
    theirs = trained(resident(arrays, parts), Plan(devices=2, lanes=2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)
    with pytest.raises(UserError, match=r"10\.2 MB of examples .* 9\.3 MB more .* choose --plan\.data streamed"):
        trained(streamed(arrays, parts), Plan(devices=2, lanes=2, memory_mb=1))


STATE = {"weights": jax.ShapeDtypeStruct((9, 100_000), np.float32)}  # 3.6 MB


@pytest.mark.parametrize(
    ("data", "plan", "kept", "says"),
    [
        (procedural, Plan(data="streamed"), (), "plan.data=streamed: these examples are computed"),
        (procedural, Plan(data="sharded"), (), "choose --plan.data replicated"),
        (procedural, Plan(memory_mb=1), STATE, "2.6 MB more than its 1.0; choose .* --plan.clients host"),
        (lambda: wide(1), Plan(memory_mb=2), (), "choose --plan.data sharded"),
        (lambda: wide(8), Plan(memory_mb=2, data="sharded"), (), "choose a smaller sampling.cohort"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_can(data, plan, kept, says) -> None:
    with pytest.raises(UserError, match=says):
        placement.check_memory(data(), plan.resolve(), 3, kept)


@pytest.mark.parametrize(
    ("host", "plan", "says"),
    [
        (
            3e6,
            Plan(devices=1, memory_mb=1),
            "--plan.data replicated --plan.clients host comes closest and lacks 0.6 MB",
        ),
        (3e6, Plan(devices=1, clients="host"), "the host would hold 3.6 MB, 0.6 MB more than its 3.0 .*the job"),
        (5e6, Plan(devices=1, memory_mb=1), "choose --plan.data replicated --plan.clients host$"),
    ],
)
def test_the_host_is_proposed_only_where_it_has_the_memory(host, plan, says, monkeypatch) -> None:
    monkeypatch.setattr(memory, "host_limit", lambda: memory.Limit(host, "the job"))
    with pytest.raises(UserError, match=says):
        placement.check_memory(procedural(), plan.resolve(), 3, STATE)


def wide(megabytes: int) -> ClientData:
    """Nine clients with an example of that many megabytes each."""
    return resident({"image": np.zeros((9, megabytes, 1000, 1000), np.uint8)}, list(np.arange(9)[:, None]))
