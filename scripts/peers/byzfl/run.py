"""Times cells of ByzFL's sample grid on Fashion-MNIST, by its own code, and writes their accuracies.

    python scripts/peers/byzfl/run.py --steps 20 --cells 0 50 100

The grid is the default configuration of the package with the data set changed: 2 rules x 3 attacks x 4 f x 4 gamma x 3
seeds = 288 cells of 800 steps. Each cell is one line of JSON: its settings, wall and CPU seconds of a step and of all
else, and its accuracies on the test set. The data are those of Debian's package dataset-fashion-mnist.
"""

import argparse
import copy
import gzip
import json
import os
import pathlib
import tempfile
import time

import numpy as np
from byzfl import Server
from byzfl.benchmark import benchmark
from byzfl.benchmark.train import start_training

FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")


begun: list[float] = []  # CPU seconds of the process at each step of the server


class Clock:
    """What calls of a method cost: wall seconds, CPU seconds, and how many there were."""

    def __init__(self, owner: type, name: str) -> None:
        self.spent, call = np.zeros(3), getattr(owner, name)

        def timed(*words: object) -> object:
            start = time.perf_counter(), time.process_time()
            result = call(*words)
            self.spent += time.perf_counter() - start[0], time.process_time() - start[1], 1
            return result

        setattr(owner, name, timed)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--steps", type=int, default=800)
    words.add_argument("--cells", type=int, nargs="*", default=None)
    words.add_argument("--no-evaluation", action="store_true", help="to time steps alone")
    chosen = words.parse_args()
    if chosen.no_evaluation:
        Server.compute_validation_accuracy = Server.compute_test_accuracy = lambda self: 0.0
    update = Server.update_model_with_gradients
    Server.update_model_with_gradients = lambda self, rows: (update(self, rows), begun.append(time.process_time()))[0]
    tests = Clock(Server, "compute_test_accuracy"), Clock(Server, "compute_validation_accuracy")
    with tempfile.TemporaryDirectory() as folder:
        raw = pathlib.Path(folder) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for path in FOLDER.glob("*.gz"):
            (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        cells = grid(folder, chosen.steps)
        for number in range(len(cells)) if chosen.cells is None else chosen.cells:
            found = run(cells[number], folder, chosen.steps, tests)
            print(json.dumps({"cell": number} | found), flush=True)


def grid(folder: str, steps: int) -> list[dict]:
    """The settings of all cells, as `byzfl.run_benchmark` makes them."""
    data = copy.deepcopy(benchmark.default_config)
    data["model"]["dataset_name"] = "fashionmnist"
    data["benchmark_config"] |= {"nb_steps": steps, "device": "cpu"}
    data["evaluation_and_results"] |= {"data_folder": folder, "results_directory": f"{folder}/results"}
    data = benchmark.ensure_optional_config_parameters(data)
    cells = benchmark.generate_all_combinations(data, ["pre_aggregators", "milestones"])
    cells = benchmark.set_tolerated_f_equal_to_real_f(benchmark.ensure_key_parameters(cells))
    cells = benchmark.compute_number_of_workers(benchmark.set_declared_as_aggregation_parameter(cells))
    return benchmark.delegate_data_distribution_seeds(benchmark.delegate_training_seeds(cells))


def run(cell: dict, folder: str, steps: int, tests: tuple[Clock, ...]) -> dict:
    """What became of a cell."""
    for clock in tests:
        clock.spent[:] = 0
    begun.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    start_training(copy.deepcopy(cell))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    evaluating = sum(clock.spent for clock in tests)
    inside = newest(folder, "train_time")  # wall seconds of steps and evaluations
    config = cell["benchmark_config"]
    return {
        "rule": cell["aggregator"]["name"],
        "attack": cell["attack"]["name"],
        "f": config["f"],
        "gamma": config["data_distribution"]["distribution_parameter"],
        "seed": config["training_seed"],
        "steps": steps,
        "all_wall_cpu_s": [round(wall, 2), round(cpu, 2)],
        "step_wall_s": round((float(inside[-1]) - evaluating[0]) / steps, 4),
        "step_cpu_s": round((begun[-1] - begun[0]) / max(len(begun) - 1, 1), 4),  # without evaluations, for steps <= 50
        "evaluation_wall_cpu_s": (2 * evaluating[:2] / max(evaluating[2], 1)).round(2).tolist(),  # of both sets
        "accuracy": newest(folder, "test_accuracy").round(4).tolist(),
    }


def newest(folder: str, name: str) -> np.ndarray:
    """The numbers of the newest file of this name among the results."""
    path = max(pathlib.Path(folder, "results").glob(f"*/{name}*.txt"), key=os.path.getmtime)
    return np.atleast_1d(np.loadtxt(path, delimiter=","))


if __name__ == "__main__":
    main()
