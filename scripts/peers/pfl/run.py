"""pfl-research's simulated backend, driven as its benchmarks/image_classification/pytorch/train.py drives it."""

import os
import pathlib
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import common
import workloads
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Clock(TrainingProcessCallback):
    """The seconds of each round, and which it is."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, *, model) -> Metrics:
        self.last = time.perf_counter()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration) -> tuple[bool, Metrics]:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        return False, Metrics()


def main() -> None:
    words = common.parser()
    words.add_argument("--processes", type=int, default=1)
    chosen = words.parse_args()
    if chosen.processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={chosen.processes}"]
        os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])
    np.random.seed(0)
    workload, watch = workloads.WORKLOADS[chosen.workload], Clock()
    model = learner(workload)
    train(workload, chosen.rounds, model, watch)
    peak = torch.tensor([common.peak_mb()])
    pytorch_ops.distributed.all_reduce([peak])
    if pytorch_ops.distributed.global_rank == 0:
        final = common.from_torch(workload, [value.detach().numpy() for value in model.pytorch_model.parameters()])
        name = f"pfl x {chosen.processes}" if chosen.processes > 1 else "pfl"
        packages = ("pfl", "torch", "numpy")
        common.report(name, workload, watch.seconds, workloads.weights(workload), final, float(peak), packages)


def learner(workload) -> PyTorchModel:
    """The CNN with the two functions that pfl asks of a module."""
    net = common.torch_cnn(workload).to(memory_format=torch.channels_last)
    net.loss = lambda images, labels: F.cross_entropy(net(images), labels)
    net.metrics = lambda images, labels: {"loss": Weighted(net.loss(images, labels).item(), 1)}
    return PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), 1.0))


def train(workload, rounds: int, model: PyTorchModel, watch: Clock) -> None:
    images, labels = common.inputs(workload)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long()

    def read(client: int) -> PyTorchTensorDataset:
        rows = torch.from_numpy(workloads.rows(workload, len(watch.seconds), client))
        return PyTorchTensorDataset((x[rows], y[rows]), user_id=str(client))

    clients = list(range(len(workload.sizes)))
    sampler = get_user_sampler("minimize_reuse", clients)  # each client once, then again from the first
    data = FederatedDataset(read, sampler, dict(enumerate(workload.sizes.tolist())))
    backend = SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByDatapoints()])
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds,  # the first round evaluates, none after it
            train_cohort_size=len(clients),
            val_cohort_size=None,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_learning_rate=workload.rate, local_num_epochs=workload.epochs, local_batch_size=workload.batch
        ),
        NNEvalHyperParams(local_batch_size=256),
        [watch],
    )


if __name__ == "__main__":
    main()
