"""FedJAX with its jit backend, driven as its examples/emnist_fed_avg.py drives it.

Its requirements pin the JAX on which it is fastest; 0.10.2 runs as well, in about 1.2 times the processor time.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import common
import fedjax
import workloads
from fedjax.algorithms import fed_avg

jax.tree_map = jax.tree.map  # FedJAX 0.0.17 calls it by the name that newer JAX has dropped


def logits(params, x):
    """x [B, H, W, C] -> [B, classes]."""
    for name in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(
            x, params[f"{name}.kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[f"{name}.bias"])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(x), -1) @ params["dense.kernel"] + params["dense.bias"]


def loss(params, batch, rng):
    scores = jax.nn.log_softmax(logits(params, batch["x"]))
    return -jnp.mean(jnp.take_along_axis(scores, batch["y"][:, None], 1))


def main() -> None:
    chosen = common.parser().parse_args()
    workload = workloads.WORKLOADS[chosen.workload]
    images, labels = common.inputs(workload)
    fedjax.set_for_each_client_backend("jit")
    # The workload's own order takes the place of FedJAX's shuffle. A last batch is filled with earlier examples.
    hparams = fedjax.ShuffleRepeatBatchHParams(batch_size=workload.batch, num_epochs=1, skip_shuffle=True)
    optimizer, server = fedjax.optimizers.sgd(workload.rate), fedjax.optimizers.sgd(1.0)
    algorithm = fed_avg.federated_averaging(jax.jit(jax.grad(loss)), optimizer, server, hparams)
    state = algorithm.init(jax.tree.map(jnp.asarray, workloads.weights(workload)))

    def client(number: int, client: int):
        rows = workloads.rows(workload, number, client)
        return client, fedjax.ClientDataset({"x": images[rows], "y": labels[rows]})

    def one_round(number: int) -> None:
        nonlocal state
        keys = jax.random.split(jax.random.PRNGKey(number), len(workload.sizes))
        clients = [(*client(number, index), key) for index, key in enumerate(keys)]
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)

    seconds = common.clock(chosen.rounds, one_round)
    final = {name: np.asarray(value) for name, value in state.params.items()}
    packages = ("fedjax", "jax", "numpy")
    common.report("fedjax", workload, seconds, workloads.weights(workload), final, common.peak_mb(), packages)


if __name__ == "__main__":
    main()
