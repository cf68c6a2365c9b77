"""Flower's simulation, one Ray actor for each core, driven as its examples/quickstart-pytorch drives it."""

import os
import pathlib
import sys
import time

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
sys.path.append(str(pathlib.Path(__file__).parents[1]))

import client
import common
import numpy as np
import workloads
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation


def main() -> None:
    words = common.parser()
    words.add_argument("--actors", type=int, default=os.cpu_count())
    chosen = words.parse_args()
    workload = workloads.WORKLOADS[chosen.workload]
    clients, ticks, peaks, server, result = len(workload.sizes), [], {}, ServerApp(), {}

    def memory(replies, weighted_by: str) -> MetricRecord:
        """Keeps the peak of each actor's process."""
        peaks.update({reply["metrics"]["process"]: reply["metrics"]["peak_mb"] for reply in replies})
        return MetricRecord({"peak_mb": sum(peaks.values())})

    @server.main()
    def serve(grid, context) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients, train_metrics_aggr_fn=memory
        )
        result["arrays"] = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(common.torch_cnn(workload).state_dict()),
            train_config=ConfigRecord({"workload": workload.name}),
            num_rounds=chosen.rounds,
            evaluate_fn=lambda number, arrays: ticks.append(time.perf_counter()),  # before the first, after each
        ).arrays

    resources = {"init_args": {"num_cpus": chosen.actors}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client.app, clients, backend_config=resources)
    seconds = np.diff(ticks).tolist()
    final = common.from_torch(workload, [value.numpy() for value in result["arrays"].to_torch_state_dict().values()])
    peak, packages = common.peak_mb() + sum(peaks.values()), ("flwr", "ray", "torch", "numpy")
    common.report("flower", workload, seconds, workloads.weights(workload), final, peak, packages)


if __name__ == "__main__":
    main()
