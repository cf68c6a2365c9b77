"""BlazeFL, driven as its benchmarks/blazefl-case/main.py drives it: threads where Python has no GIL, else processes.

Its recommended mode needs a free-threaded Python 3.14. Its benchmark's augmentation and evaluation are left out, as all
peers train on the same batches. Clients' examples lie on disk, as in its benchmark, but are read in whole batches.
"""

import os
import pathlib
import resource
import sys
import tempfile
from enum import StrEnum

import torch
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import common
import workloads
from blazefl.contrib import (
    FedAvgBaseServerHandler,
    FedAvgPartitionType,
    FedAvgProcessPoolClientTrainer,
    FedAvgThreadPoolClientTrainer,
)
from blazefl.core import ModelSelector, PartitionedDataset
from workloads import Workload

torch.set_num_threads(1)  # also in the processes of its pool
FREE = not getattr(sys, "_is_gil_enabled", lambda: True)()


class ModelName(StrEnum):
    """The one model."""

    GIVEN = "given"


class Selector(ModelSelector[ModelName]):
    """Builds the workload's network."""

    def __init__(self, name: str) -> None:
        self.name = name

    def select_model(self, model_name: ModelName) -> torch.nn.Module:
        return common.torch_cnn(workloads.WORKLOADS[self.name])


class Clients(PartitionedDataset[FedAvgPartitionType]):
    """Each client's examples in a file, read in the order that the workload gives for the round."""

    def __init__(self, workload: Workload, folder: pathlib.Path) -> None:
        self.name, self.folder, self.round = workload.name, folder, 0
        images, labels = common.inputs(workload)
        x = torch.from_numpy(images).permute(0, 3, 1, 2)
        for client, (first, size) in enumerate(zip(workload.offsets, workload.sizes)):
            own = slice(int(first), int(first + size))
            fields = x[own].contiguous(), torch.from_numpy(labels[own]).long()
            torch.save(fields, folder / f"{client}.pt")

    def set_dataset(self, type_, cid, dataset) -> None:
        """Nothing changes in training."""

    def get_dataloader(self, type_, cid, batch_size, generator) -> DataLoader:
        order = workloads.order(workloads.WORKLOADS[self.name], self.round, cid).tolist()
        dataset = TensorDataset(*torch.load(self.folder / f"{cid}.pt"))
        return DataLoader(dataset, batch_size=None, sampler=BatchSampler(order, batch_size, drop_last=False))


def main() -> None:
    words = common.parser(common.CNNS)
    words.add_argument("--processes", type=int, default=os.cpu_count(), help="or threads, where Python has no GIL")
    chosen = words.parse_args()
    workload = workloads.WORKLOADS[chosen.workload]
    with tempfile.TemporaryDirectory() as name:
        seconds, final = train(workload, chosen.rounds, chosen.processes, pathlib.Path(name))
    unit = 1 if sys.platform == "darwin" else 1024
    workers = 0 if FREE else resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6
    peak, packages = common.peak_mb() + chosen.processes * workers, ("blazefl", "torch", "numpy")
    common.report("blazefl", workload, seconds, workloads.weights(workload), final, peak, packages)


def train(workload: Workload, rounds: int, parallel: int, folder: pathlib.Path) -> tuple[list[float], common.Weights]:
    """Returns the seconds of each round, and the final weights."""
    count, batch, selector = len(workload.sizes), workload.batch, Selector(workload.name)
    data = Clients(workload, folder)
    server = FedAvgBaseServerHandler(selector, ModelName.GIVEN, data, rounds, count, 1.0, "cpu", batch, 0)
    given = {"model_selector": selector, "model_name": ModelName.GIVEN, "dataset": data, "device": "cpu", "seed": 0}
    given |= {"num_clients": count, "epochs": workload.epochs, "batch_size": batch, "lr": workload.rate}
    trainer = (
        FedAvgThreadPoolClientTrainer(**given, num_parallels=parallel)
        if FREE
        else FedAvgProcessPoolClientTrainer(**given, num_parallels=parallel, state_dir=folder / "state")
    )

    def one_round(number: int) -> None:
        data.round = number
        sampled, broadcast = server.sample_clients(), server.downlink_package()
        trainer.local_process(broadcast, sampled)
        for package in trainer.uplink_package():
            server.load(package)

    seconds = common.clock(rounds, one_round)
    return seconds, common.from_torch(workload, [value.detach().numpy() for value in server.model.parameters()])


if __name__ == "__main__":
    main()
