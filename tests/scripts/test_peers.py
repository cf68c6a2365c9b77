"""What judges the peers: the CNN in NumPy, and the weights as PyTorch lays them out."""

import json

import common
import jax
import numpy as np
import pytest
import workloads

W1 = workloads.WORKLOADS["W1"]


def test_logits_are_those_of_the_network_in_jax() -> None:
    weights = {name: value + 0.1 for name, value in workloads.weights(W1).items()}
    images = common.inputs(W1)[0][:3]
    x = jax.numpy.asarray(images)
    for name in ("conv1", "conv2"):
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, weights[f"{name}.kernel"], (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x + weights[f"{name}.bias"].reshape(1, 1, 1, -1))
        x = jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    truth = x.reshape(3, -1) @ weights["dense.kernel"] + weights["dense.bias"].reshape(1, -1)
    np.testing.assert_allclose(common.logits(weights, images), truth, rtol=1e-4)


def test_weights_go_to_pytorch_and_back() -> None:
    weights = {name: value + np.arange(value.shape[-1]) for name, value in workloads.weights(W1).items()}
    there = common.to_torch(W1, weights)
    assert [value.shape for value in there] == [(32, 1, 3, 3), (32,), (64, 32, 3, 3), (64,), (10, 4_096), (10,)]
    np.testing.assert_array_equal(there[2][5, 7], weights["conv2.kernel"][:, :, 7, 5])
    np.testing.assert_array_equal(
        there[4][3].reshape(64, 8, 8)[9, 2, 1], weights["dense.kernel"][(2 * 8 + 1) * 64 + 9, 3]
    )
    back = common.from_torch(W1, there)
    assert all(np.array_equal(back[name], value) for name, value in weights.items())


def test_the_line_of_json(capsys) -> None:
    start = workloads.weights(W1)
    final = {**start, "dense.bias": start["dense.bias"] + np.float32(3)}
    common.report("someone", W1, [5.0, 1.0, 3.0, 2.0], start, final, 7.0, ("numpy",))
    line = json.loads(capsys.readouterr().out)
    assert (line["peer"], line["workload"], line["peak_mb"]) == ("someone", "W1", 7.0)
    assert (line["first_round_s"], line["round_s"], line["median_s"]) == (5.0, [1.0, 3.0, 2.0], 2.0)
    assert line["images_per_s"] == 1_024 and line["versions"]["numpy"] == np.__version__
    assert line["update_norm"] == pytest.approx(90**0.5) and 0 <= line["final_accuracy"] < 0.3


def test_rounds_are_timed_in_turn() -> None:
    numbers: list[int] = []
    seconds = common.clock(3, numbers.append)
    assert numbers == [0, 1, 2] and len(seconds) == 3 and min(seconds) >= 0
