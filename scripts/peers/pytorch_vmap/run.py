"""PyTorch with stacks of clients under `torch.func.vmap`; shorter clients of a stack wait in masked steps."""

import pathlib
import sys

import numpy as np
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import common
import workloads

STACK = 32  # clients at once, at most


def main() -> None:
    chosen = common.parser().parse_args()
    workload = workloads.WORKLOADS[chosen.workload]
    net = common.torch_cnn(workload)
    average = {name: value.detach().clone() for name, value in net.named_parameters()}
    images, labels = common.inputs(workload)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long()
    by_size = np.argsort(-workload.sizes, kind="stable")
    stacks = [by_size[i : i + STACK] for i in range(0, len(by_size), STACK)]

    def loss(weights, images, labels, weight):
        """Mean over the examples that count, 0 where none does: a masked step has no gradient."""
        costs = F.cross_entropy(functional_call(net, weights, images), labels, reduction="none")
        return (costs * weight).sum() / weight.sum().clamp(min=1)

    gradients = vmap(grad(loss))

    def one_round(number: int) -> None:
        total = {name: torch.zeros_like(value) for name, value in average.items()}
        for clients in stacks:
            weights = {name: value.expand(len(clients), *value.shape).clone() for name, value in average.items()}
            for rows, weight in steps(workload, number, clients):
                for name, gradient in gradients(weights, x[rows], y[rows], weight).items():
                    weights[name].sub_(gradient, alpha=workload.rate)
            sizes = torch.from_numpy(workload.sizes[clients]).float()
            for name, value in total.items():
                value.add_(torch.tensordot(sizes, weights[name], 1))
        for name, value in average.items():
            value.copy_(total[name] / workload.images)

    seconds = common.clock(chosen.rounds, one_round)
    final = common.from_torch(workload, [value.numpy() for value in average.values()])
    start = workloads.weights(workload)
    common.report("pytorch vmap", workload, seconds, start, final, common.peak_mb(), ("torch", "numpy"))


def steps(workload, number: int, clients: np.ndarray):
    """Rows [L, B] and weights [L, B], 0 for padding, of each local step of a stack of L clients, longest first."""
    length = -(-int(workload.sizes[clients].max()) // workload.batch) * workload.batch
    rows, weight = np.zeros((len(clients), length), np.int64), np.zeros((len(clients), length), np.float32)
    for lane, client in enumerate(clients):
        size = workload.sizes[client]
        rows[lane, :size], weight[lane, :size] = workloads.rows(workload, number, client), 1
    return zip(*(torch.from_numpy(array).split(workload.batch, 1) for array in (rows, weight)))


if __name__ == "__main__":
    main()
