"""The benchmark's own arithmetic, on a workload small enough for a test; and the cost model on made-up machines."""

import dataclasses

import benchmark
import cost_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import workloads

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
    model = benchmark.simulations("W1")(plan).task.init(jax.random.key(0))
    given = workloads.weights(workloads.WORKLOADS["W1"])
    np.testing.assert_array_equal(model.params["convs"][1]["kernel"], given["conv2.kernel"])
    np.testing.assert_array_equal(model.params["logits"]["kernel"], given["dense.kernel"])


CONSTANTS = np.array([1 / 200, 1 / 20, 2e-5])  # seconds per Gflop, per GB, per kernel


def made_up(name: str, passes: float, gflop: float, gbyte: float) -> dict:
    line = {"workload": name, "passes": passes, "gflop_per_step": gflop, "gbyte_per_step": gbyte, "plan": {"lanes": 2}}
    line["kernels"] = 50
    line |= {"update_mb": 1.0, "steps_per_s": 40.0, "clients_per_s": 10.0}
    return line | {"median_s": float(cost_model.terms(line) @ CONSTANTS) + cost_model.HOST_S}


LINES = {
    name: made_up(name, *rest) for name, *rest in (("W1", 64, 0.5, 0.03), ("W5", 100, 0.2, 0.1), ("W6", 20, 4, 0.2))
}


def test_the_cost_model_finds_the_constants_of_a_machine_and_predicts_another_workload() -> None:
    found = cost_model.fit(list(LINES.values()))
    np.testing.assert_allclose(found, CONSTANTS, rtol=1e-6)
    other = made_up("W2", 512, 0.5, 0.03)
    assert cost_model.predicted(other, found) == pytest.approx(other["median_s"])
    text = cost_model.rows({**LINES, "W2": other}, found)
    assert "| W2 |" in text and "+0%" in text and "200 Gflop/s and 20.0 GB/s" in text and "W1 (fitted)" in text


def test_the_curve_ends_at_the_network() -> None:
    cells = [row.split(" | ") for row in cost_model.curve(LINES["W1"], CONSTANTS).splitlines()[2:]]
    million = [float(row[-1].rstrip(" |")) for row in cells]
    assert million[0] / million[2] == pytest.approx(100, rel=0.01) and million == sorted(million, reverse=True)
