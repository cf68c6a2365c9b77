"""The benchmark's own arithmetic, on a workload small enough for a test; and the cost model on made-up machines."""

import dataclasses

import benchmark
import cost_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import workloads

from fedjax_mri.compile.kernels import Kernel
from fedjax_mri.compile.roofline import Schedule
from fedjax_mri.fed.engine import work
from fedjax_mri.fed.engine.plan import Plan

TINY = workloads.Workload("tiny", np.array([16, 16, 5, 64], np.int32), (8, 8, 1), 3, 0.05, "cnn")


def test_products_are_counted_as_often_as_they_run() -> None:
    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 7))
    layout = ("NHWC", "HWIO", "NHWC")

    def both(a, b, image, kernel):
        repeated = jax.lax.scan(lambda c, _: (c @ b[0].T @ b[0], None), b[0].T @ b[0], None, 10)[0]
        return jnp.einsum("bij,bjk->bik", a, b), repeated, jax.jit(convolved)(image, kernel)

    def convolved(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=layout)

    batched, first, scanned = 2 * 3 * 4 * 5 * 6, 2 * 6 * 5 * 6, 10 * 2 * (2 * 6 * 6 * 5)
    expected = batched + first + scanned + 2 * 2 * 8 * 8 * 7 * 27
    assert work.product_flops(jax.make_jaxpr(both)(a, b, image, kernel).jaxpr) == expected


def test_a_local_step_of_w1_has_the_flops_of_its_layers(monkeypatch) -> None:
    sim = benchmark.simulations("W1")(Plan(devices=1, lanes=1, conv="gemm").resolve())
    conv1, conv2, dense = 32 * 32 * 9 * 32, 16 * 16 * 288 * 64, 4096 * 10
    wanted = 2 * 16 * (2 * conv1 + 3 * conv2 + 3 * dense)  # the images need no gradient
    assert work.product_flops(benchmark.one_step(sim).jaxpr.jaxpr) == pytest.approx(wanted, rel=0.01)


def test_a_line_says_all_there_is_to_say(monkeypatch) -> None:
    monkeypatch.setitem(workloads.WORKLOADS, "tiny", TINY)
    monkeypatch.setattr(benchmark, "peak_flops", lambda plan: 1e9)
    line = benchmark.measured("tiny", Plan(devices=2, lanes=1, conv="gemm"), 3)
    assert len(line["round_s"]) == 2 and line["median_s"] == np.median(line["round_s"])
    assert line["passes"] == 4 and line["useful_share"] == line["best_useful_share"] == 7 / 8
    assert line["images_per_s"] == pytest.approx(101 * np.median([1 / s for s in line["round_s"]]))
    assert line["share_of_peak"] == pytest.approx(line["gflop_per_s"])
    assert line["plan"] == dataclasses.asdict(Plan(devices=2, lanes=1, conv="gemm").resolve())


def test_the_peak_is_a_rate_that_a_processor_can_have() -> None:
    assert 1e9 < benchmark.peak_flops(Plan(devices=1, lanes=1).resolve()) < 1e14


def test_every_field_of_the_plan_is_a_flag() -> None:
    words = benchmark.parser().parse_args(["--workload", "W3", "--conv", "xla", "--remat", "True", "--tune_s", "0.5"])
    assert (words.conv, words.remat, words.tune_s, words.lanes) == ("xla", True, 0.5, 0)


def test_the_peers_start_from_the_same_weights() -> None:
    plan = Plan(devices=1, lanes=1, conv="gemm").resolve()
    model = jax.jit(benchmark.simulations("W1")(plan).task.init)(jax.random.key(0))
    given = workloads.weights(workloads.WORKLOADS["W1"])
    np.testing.assert_array_equal(model.params["convs"][1]["kernel"], given["conv2.kernel"])
    np.testing.assert_array_equal(model.params["logits"]["kernel"], given["dense.kernel"])


TRUE = cost_model.rates(2e11, 2e10, 2e-5)


def made_up(flops: float, nbytes: float, small: int, passes: float) -> cost_model.Measured:
    """A round on a machine of the rates TRUE: a large product, a large copy and `small` kernels in each step."""
    kernels = [
        Kernel("step", 1, "product", flops, 0.0, "f32", 0.0, True),
        Kernel("step", 1, "copy", 0.0, nbytes, "", 0.0, True),
        Kernel("step", small, "small", 0.0, 0.0, "", 0.0, True),
    ]
    unmeasured = cost_model.Measured(0.0, Schedule(passes, 0), kernels)
    return unmeasured._replace(seconds=cost_model.estimated(unmeasured, TRUE).total)


def test_the_cost_model_finds_the_rates_of_a_machine_and_predicts_another_workload() -> None:
    known = {"W1": made_up(5e8, 3e7, 50, 64), "W5": made_up(2e8, 1e8, 300, 100), "W6": made_up(4e9, 2e8, 100, 20)}
    found = cost_model.fit(list(known.values()))
    assert found.flops["f32"] == pytest.approx(2e11, rel=0.02) and found.bandwidth == pytest.approx(2e10, rel=0.02)
    assert found.launch_s == pytest.approx(2e-5, rel=0.02)
    text = cost_model.table({**known, "W2": made_up(5e8, 3e7, 50, 512)}, found)
    assert "| W2 |" in text and "+0%" in text and "200 Gflop/s and 20.0 GB/s" in text and "W1 (fitted)" in text
