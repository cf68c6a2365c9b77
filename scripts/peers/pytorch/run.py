"""A hand-written PyTorch loop over clients, alone or in several processes; W6 and W7 too, on a CPU or a GPU."""

import pathlib
import sys
import tempfile

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import common
import workloads
from models import learner

PRECISIONS = ("fp32", "tf32", "bf16")


def main() -> None:
    words = common.parser((*common.CNNS, "resnet18", "cyclegan"))
    words.add_argument("--processes", type=int, default=1)
    words.add_argument("--threads", type=int, default=0, help="in each process; 0: all with one process, else 1")
    words.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="its peak memory is reported")
    words.add_argument("--precision", choices=PRECISIONS, default="fp32")
    chosen = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        others = mp.start_processes(work, (chosen, meeting), chosen.processes - 1, join=False, start_method="spawn")
        work(-1, chosen, meeting)
        others.join()


def work(number: int, chosen, meeting: str) -> None:
    """One process's share of every round; the first, whose `number` is -1, reports."""
    rank = number + 1
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=chosen.processes)
    if chosen.threads or chosen.processes > 1:
        torch.set_num_threads(chosen.threads or 1)
    precision(chosen.precision)
    workload = workloads.WORKLOADS[chosen.workload]
    learn = learner(workload, chosen.device, chosen.precision == "bf16")
    data, mine = fields(workload, chosen.device), share(workload, chosen.processes)[rank]
    average = [parameter.detach().clone() for parameter in learn.parameters]
    start = [value.cpu().numpy().copy() for value in average]

    def one_round(number: int) -> None:
        total = [torch.zeros_like(value) for value in average]
        for client in mine:
            train(workload, learn, average, data, number, client)
            for value, parameter in zip(total, learn.parameters):
                value.add_(parameter.detach(), alpha=int(workload.sizes[client]))
        flat = torch.cat([value.reshape(-1) for value in total])
        if chosen.processes > 1:
            flat = flat.cpu()
            dist.all_reduce(flat)
        parts = (flat / workload.images).split([value.numel() for value in average])
        for value, part in zip(average, parts):
            value.copy_(part.view(value.shape))
        if chosen.device == "cuda":
            torch.cuda.synchronize()

    seconds = common.clock(chosen.rounds, one_round)
    device_mb = torch.cuda.max_memory_allocated() / 1e6 if chosen.device == "cuda" else 0
    peak = torch.tensor(device_mb or common.peak_mb())
    dist.all_reduce(peak)
    if rank == 0:
        final = [value.cpu().numpy() for value in average]
        kind = "" if chosen.device == "cpu" else f" {chosen.device} {chosen.precision}"
        name = f"pytorch{kind} x {chosen.processes}" if chosen.processes > 1 else f"pytorch{kind}"
        common.report(name, workload, seconds, *learn.named(start, final), float(peak), ("torch", "numpy"))
    dist.destroy_process_group()


def train(workload, learn, average, data, number: int, client: int) -> None:
    """A client's local round, from the average to its own parameters."""
    with torch.no_grad():
        for parameter, value in zip(learn.parameters, average):
            parameter.copy_(value)
    optimizers = learn.optimizers()
    rows = torch.from_numpy(workloads.rows(workload, number, client))
    parts = (field[rows.to(field.device)].split(workload.batch) for field in data)
    for batch in [*zip(*parts)] * workload.epochs:
        learn.step(optimizers, *batch)


def fields(workload, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a step takes, on the device: images [n, C, H, W] and labels, or images of two modalities."""
    if workload.model == "cyclegan":
        return tuple(tensor(image.astype(np.float32) / 127.5 - 1, device) for image in workloads.pairs(workload))
    images, labels = common.inputs(workload)
    return tensor(images, device), torch.from_numpy(labels).long().to(device)


def tensor(images: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).to(device)


def share(workload, processes: int) -> list[list[int]]:
    """Clients of each process: longest first, to the least loaded."""
    loads, found = np.zeros(processes), [[] for _ in range(processes)]
    for client in np.argsort(-workload.sizes, kind="stable"):
        least = int(loads.argmin())
        found[least].append(int(client))
        loads[least] += workload.sizes[client]
    return found


def precision(name: str) -> None:
    """Whether float32 products may run in TF32; cuDNN measures its algorithms, as shapes stay the same."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "fp32"
    torch.backends.cudnn.benchmark = True


if __name__ == "__main__":
    main()
