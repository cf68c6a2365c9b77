"""DP-SGD of Opacus at each client, alone or in several processes: Poisson batches, per-example gradients by its hooks.

A client's model and optimiser stay wrapped over rounds, so that wrapping takes no time from a step.
"""

import pathlib
import sys
import tempfile
import warnings

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch.nn import functional as F

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import common
import workloads


def main() -> None:
    words = common.parser(common.CNNS)
    words.add_argument("--processes", type=int, default=1)
    chosen = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        others = mp.start_processes(work, (chosen, meeting), chosen.processes - 1, join=False, start_method="spawn")
        work(-1, chosen, meeting)
        others.join()


def work(number: int, chosen, meeting: str) -> None:
    """One process's share of the clients in every round; the first, whose `number` is -1, reports."""
    warnings.filterwarnings("ignore")
    rank, count = number + 1, chosen.processes
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    if count > 1:
        torch.set_num_threads(1)
    workload = workloads.WORKLOADS[chosen.workload]
    images, labels = common.inputs(workload)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long()
    net = GradSampleModule(common.torch_cnn(workload))
    parameters = list(net.parameters())
    optimizer = DPOptimizer(
        torch.optim.SGD(parameters, workload.rate),
        noise_multiplier=workload.noise,
        max_grad_norm=1.0,
        expected_batch_size=workload.batch,
    )
    average = [parameter.detach().clone() for parameter in parameters]
    start = [value.numpy().copy() for value in average]

    def one_round(number: int) -> None:
        total = [torch.zeros_like(value) for value in average]
        for client in range(rank, len(workload.sizes), count):
            with torch.no_grad():
                for parameter, value in zip(parameters, average):
                    parameter.copy_(value)
            train(workload, net, optimizer, x, y, client)
            for value, parameter in zip(total, parameters):
                value.add_(parameter.detach(), alpha=int(workload.sizes[client]))
        flat = torch.cat([value.reshape(-1) for value in total])
        dist.all_reduce(flat)
        for value, part in zip(average, (flat / workload.images).split([value.numel() for value in average])):
            value.copy_(part.view(value.shape))

    seconds = common.clock(chosen.rounds, one_round)
    peak = torch.tensor(common.peak_mb())
    dist.all_reduce(peak)
    if rank == 0:
        final = [value.numpy() for value in average]
        name = f"opacus x {count}" if count > 1 else "opacus"
        named = (common.from_torch(workload, values) for values in (start, final))
        common.report(name, workload, seconds, *named, float(peak), ("opacus", "torch", "numpy"))
    dist.destroy_process_group()


def train(workload, net, optimizer, x: torch.Tensor, y: torch.Tensor, client: int) -> None:
    """A client's local round: as many Poisson batches as read each of its examples once on average."""
    first, size = int(workload.offsets[client]), int(workload.sizes[client])
    sampler = UniformWithReplacementSampler(num_samples=size, sample_rate=workload.batch / size)
    for rows in sampler:
        chosen = torch.tensor(rows, dtype=torch.long) + first
        optimizer.zero_grad()
        F.cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimizer.step()


if __name__ == "__main__":
    np.random.seed(0)
    main()
