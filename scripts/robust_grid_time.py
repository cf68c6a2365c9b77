"""Times rounds of cells of `studies/robust_grid.py`, each alone, after its program is compiled.

    FEDJAX_MRI_FASHION_MNIST=fashion.npz python scripts/robust_grid_time.py --cells 0 50 --rounds 20

Each cell is one line of JSON: wall and CPU seconds of compiling and of a round, and the accuracy after the rounds.
`scripts/peers/byzfl/run.py` times the same cells of the package byzfl.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np

from fedjax_mri.data import check
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.fed.engine.simulation import initial_state
from fedjax_mri.run.assemble import assemble, describe
from fedjax_mri.study import study

STUDY = pathlib.Path(__file__).parents[1] / "studies" / "robust_grid.py"


def main() -> None:
    """Prints a line for each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[0])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    cells = study.cells(study.load(STUDY))
    for number in options.cells:
        print(json.dumps({"cell": number, "rounds": options.rounds} | timed(cells[number], options.rounds)), flush=True)


def timed(cell: study.Cell, rounds: int) -> dict[str, object]:
    """Returns the settings of a cell and its times."""
    config = cell.config
    federation, plan, root = (
        check.build_source(config.data, config.seed),
        config.plan.resolve(),
        jax.random.key(config.seed),
    )
    sim = assemble(config, describe(federation), federation.train, plan)
    clocks = [(time.perf_counter(), time.process_time())]
    segment, state = segments.build(sim, plan, root, rounds), initial_state(sim, plan, root)
    state = jax.block_until_ready(segment(state, 1)[0])
    clocks.append((time.perf_counter(), time.process_time()))
    state = jax.block_until_ready(segment(state, rounds)[0])
    clocks.append((time.perf_counter(), time.process_time()))
    found = evaluate.build(sim.task, plan, federation.tests)(state)
    clocks.append((time.perf_counter(), time.process_time()))
    (compiling, training, evaluating) = np.diff(np.array(clocks), axis=0)
    summary = sim.task.summary(jax.tree.map(lambda x: x.sum(0), next(iter(found.values())).metrics))
    return {
        "what": study.describe(cell),
        "compile_wall_cpu_s": compiling.round(2).tolist(),
        "round_wall_cpu_s": (training / rounds).round(4).tolist(),
        "evaluate_wall_cpu_s": evaluating.round(2).tolist(),
        "accuracy": round(float(summary["accuracy"]), 4),
    }


if __name__ == "__main__":
    main()
