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
from byzfl.benchmark import benchmark
from byzfl.benchmark.train import start_training

FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--steps", type=int, default=800)
    words.add_argument("--cells", type=int, nargs="*", default=None)
    chosen = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = pathlib.Path(folder) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for path in FOLDER.glob("*.gz"):
            (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        cells = grid(folder, chosen.steps)
        for number in range(len(cells)) if chosen.cells is None else chosen.cells:
            print(json.dumps({"cell": number} | run(cells[number], folder, chosen.steps)), flush=True)


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


def run(cell: dict, folder: str, steps: int) -> dict:
    """What became of a cell."""
    wall, cpu = time.perf_counter(), time.process_time()
    start_training(copy.deepcopy(cell))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    inside = max(pathlib.Path(folder, "results").glob("*/train_time*.txt"), key=os.path.getmtime)
    accuracy = max(pathlib.Path(folder, "results").glob("*/test_accuracy*.txt"), key=os.path.getmtime)
    trained = float(np.loadtxt(inside))
    config = cell["benchmark_config"]
    return {
        "rule": cell["aggregator"]["name"],
        "attack": cell["attack"]["name"],
        "f": config["f"],
        "gamma": config["data_distribution"]["distribution_parameter"],
        "seed": config["training_seed"],
        "steps": steps,
        "wall_s": round(wall, 2),
        "loop_s": round(trained, 2),  # steps and evaluations
        "cpu_s": round(cpu, 2),
        "accuracy": np.atleast_1d(np.loadtxt(accuracy)).round(4).tolist(),
    }


if __name__ == "__main__":
    main()
