"""The arithmetic of the estimate against counts by hand."""

import numpy as np
import pytest

from fedjax_mri.compile import roofline, schedule
from fedjax_mri.compile.kernels import Collective, Kernel, Wait
from fedjax_mri.compile.roofline import Links, Rates, Schedule, Seconds

RATES = Rates({"f32": 1e12, "bf16": 4e12}, bandwidth=1e11, launch_s=1e-6, wait_s=1e-5)
ALONE = Links(1, 1, 1.0, 1.0, 1.0, 1.0)


def kernel(part: str, flops: float, nbytes: float, dtype: str = "f32", times: int = 1, cycles: float = 0.0) -> Kernel:
    return Kernel(part, times, "name", flops, nbytes, dtype, cycles, launched=True)


def test_a_kernel_takes_the_longer_of_its_products_and_its_bytes() -> None:
    assert roofline.kernel_seconds(kernel("step", 1e9, 1e6), RATES) == Seconds(products=1e-3, launches=1e-6)
    assert roofline.kernel_seconds(kernel("step", 1e6, 1e9), RATES) == Seconds(memory=1e-2, launches=1e-6)
    assert roofline.kernel_seconds(kernel("step", 1e9, 1e6, "bf16"), RATES).products == 2.5e-4


def test_a_compilers_cycles_count_where_they_are_more_than_the_roofline() -> None:
    with_clock = RATES._replace(clock_hz=1e9)
    assert roofline.kernel_seconds(kernel("step", 1e6, 0, cycles=1e6), with_clock).products == 1e-3
    assert roofline.kernel_seconds(kernel("step", 1e6, 0, cycles=1e6), RATES).products == 1e-6


def test_a_round_is_its_passes_its_refills_and_the_rest() -> None:
    events = [
        kernel("segment", 9e12, 0),
        kernel("round", 0, 1e8),
        Wait("step", 1),
        kernel("step", 1e9, 0, times=3),
        kernel("client", 0, 1e7),
        Collective("round", 1, "all-reduce", 1e6),
    ]
    links = Links(devices=4, hosts=1, within=1e9, between=1.0, within_s=1e-6, between_s=1.0)
    found = roofline.round_seconds(events, Schedule(passes=10, refills=2), RATES, links)
    assert found.products == pytest.approx(10 * 3 * 1e-3)
    assert found.memory == pytest.approx(2 * 1e-4 + 1e-3)
    assert found.launches == pytest.approx(10 * (3e-6 + 1e-5) + 2e-6 + 1e-6)
    assert found.network == pytest.approx(2 * (1e6 * 3 / 4 / 1e9 + 2 * 1e-6))
    assert found.total == pytest.approx(sum(found))


def test_an_exchange_runs_in_each_host_and_then_between_hosts() -> None:
    links = Links(devices=16, hosts=2, within=4e9, between=1e9, within_s=1e-6, between_s=1e-5)
    found = roofline.collective_seconds(Collective("round", 1, "all-reduce", 8e6), links)
    within, between = 8e6 * 7 / 8 / 4e9 + 3e-6, 1e6 * 1 / 2 / 1e9 + 1e-5
    assert found == pytest.approx(2 * (within + between))
    assert roofline.collective_seconds(Collective("round", 1, "all-reduce", 8e6), ALONE) == 0


@pytest.mark.parametrize(("devices", "lanes"), [(1, 1), (1, 3), (2, 2), (4, 1)])
def test_the_schedule_is_that_of_a_plain_loop(devices, lanes) -> None:
    steps = np.random.default_rng(0).integers(1, 9, 11).astype(np.int32)
    load = np.zeros((lanes, devices), int)  # neighbours in the order of dealing are on different devices
    ends: list[set[int]] = [set() for _ in range(devices)]
    for count in np.sort(steps)[::-1]:
        lane, device = divmod(int(np.argmin(load)), devices)
        load[lane, device] += count
        ends[device].add(int(load[lane, device]))
    busiest = int(np.argmax(load.max(0)))
    found = schedule.schedule(steps, devices, lanes)
    assert found.passes == load.max() and (devices > 1 or found.refills == len(ends[busiest]))
