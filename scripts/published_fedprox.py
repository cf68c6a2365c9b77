"""Repeats FedProx's synthetic experiments: figures 1 (left), 2, 5, 6 and 7 of its paper, on data of other seeds.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous Networks, MLSys 2020 (arXiv
1812.06127). Settings are those of configs/synthetic.py; 0, 50 and 90 % of the cohort are stragglers and do 1 to 19 of
20 epochs. FedAvg drops them, FedProx takes what they have done. Cells of one data set train side by side.
"""

import pathlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from trajectory import trajectory

from fedjax_mri.core import programs
from fedjax_mri.data import resident
from fedjax_mri.data.contract import ClientData, DataDescription
from fedjax_mri.data.synthetic import CLASSES, FEATURES, Synthetic
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.simulation import State, init_state
from fedjax_mri.fed.world.conditions import Partial
from fedjax_mri.metrics import classification
from fedjax_mri.run import config as configs
from fedjax_mri.run.assemble import assemble

CONFIG = configs.load(pathlib.Path(__file__).parents[1] / "configs" / "synthetic.py")[""]
DATA = {
    "IID": Synthetic(iid=True),
    "(0, 0)": Synthetic(0.0, 0.0),
    "(.5, .5)": Synthetic(0.5, 0.5),
    "(1, 1)": Synthetic(1.0, 1.0),
}
SHARES = 0.0, 0.5, 0.9  # of stragglers
KEPT = [(mu, share) for mu in (0.0, 1.0) for share in SHARES]  # FedProx
DROPPED = [(0.0, share) for share in SHARES[1:]]  # FedAvg; without stragglers it is FedProx with mu = 0
CLIENTS, ROWS = CONFIG.data.clients, 2**15  # type: ignore[attr-defined]  # room for the examples of any seed up to 9: one program serves all
EVERY, LAST = 5, 50  # rounds between two evaluations; rounds at the end over which figures are averaged

Cell = tuple[str, float, str]  # data, share of stragglers, method
FREE, PULLED = "FedProx, mu 0", "FedProx, mu 1"
HARDER, HELPS = "figure 2: more heterogeneous, worse at mu = 0", "figure 2: mu = 1 helps, but on IID data"
WORK, PULL = "figure 1: partial work beats none", "figure 1: mu = 1 beats mu = 0"
CLAIMS: list[tuple[str, Cell, Cell]] = [  # what is said, the cell of lower loss, of higher
    *((HARDER, (easy, 0.0, FREE), (hard, 0.0, FREE)) for easy, hard in pairwise(DATA)),
    *((HELPS, (name, 0.0, PULLED), (name, 0.0, FREE)) for name in DATA),
    *((WORK, ("(1, 1)", share, FREE), ("(1, 1)", share, "FedAvg")) for share in SHARES[1:]),
    *((PULL, ("(1, 1)", share, PULLED), ("(1, 1)", share, FREE)) for share in SHARES[1:]),
]

Tests = dict[str, dict[str, np.ndarray]]  # "training", "held-out" -> batch [ROWS, ...], weight 0 for padding


class Curves(NamedTuple):
    """Figures of every cell after each EVERY rounds; fields [cells, rounds / EVERY]."""

    loss: np.ndarray  # the global objective: mean over all training examples, nats
    accuracy: np.ndarray  # on all held-out examples


def curves(data: Synthetic, seed: int, late: str, cells: list[tuple[float, float]], rounds: int) -> Curves:
    """Each cell (mu, share) on the data of a seed; unfinished work is kept or dropped, as `late` says."""
    federation = data.build(seed)
    sizes, number = federation.train.sizes, np.arange(CLIENTS, dtype=np.int32)
    placed = PlacedData(roomy(federation.train), np.full_like(number, -1), number, sizes)
    tests = {name: batch(test.data) for name, test in federation.tests.items()}
    mu, share = np.array(cells, np.float32).T
    return jax.tree.map(np.asarray, program(late, rounds)(mu, share, jnp.int32(seed), placed, tests))


def roomy(data: ClientData) -> resident.Resident:
    """Returns the clients' examples in arrays of ROWS rows."""
    assert data.fetch is not None
    return resident.pack([data.fetch(client) for client in range(CLIENTS)], rows=ROWS)


def batch(data: ClientData) -> dict[str, np.ndarray]:
    """Returns all examples as one batch of ROWS."""
    return {**roomy(data).fields, "weight": (np.arange(ROWS) < data.sizes.sum()).astype(np.float32)}


@cache
def program(late: str, rounds: int) -> Callable[..., Curves]:
    """Compiled `curves`, for any data."""
    described = DataDescription((1, 1, FEATURES), tuple(map(str, range(CLASSES))), CLIENTS)
    blank = ClientData(np.ones(CLIENTS, np.int32), (), resident.read)  # what matters of the data is `placed`
    plan = CONFIG.plan.resolve()

    def one(mu: Any, share: Any, seed: jax.Array, placed: PlacedData, tests: Tests) -> Curves:
        config = replace(CONFIG, algorithm=FedProx(mu=mu), conditions=Partial(share=share, late=late), rounds=rounds)
        sim, root = assemble(config, described, blank, plan), jax.random.key(seed)

        def observe(state: State) -> Curves:
            model = state.server.model
            loss, accuracy = (sim.task.evaluate(*model, tests[name]) for name in ("training", "held-out"))  # type: ignore[call-arg]
            return Curves(classification.nll(loss), classification.accuracy(accuracy))

        return trajectory(sim, plan, placed, root, init_state(sim, root), rounds, observe, EVERY)

    return jax.jit(jax.vmap(one, (0, 0, None, None, None)), compiler_options=programs.xla_options())


class Line(NamedTuple):
    """A cell of one seed, as the table shows it."""

    data: str
    share: float
    method: str
    seed: int
    loss: float  # mean over the last rounds
    accuracy: float  # mean over them


def lines(name: str, seed: int, rounds: int) -> Iterator[Line]:
    """Returns all cells of a data set."""
    for late, cells in (("keep", KEPT), ("drop", DROPPED)):
        found = curves(DATA[name], seed, late, cells, rounds)
        for (mu, share), *curve in zip(cells, *found):
            loss, accuracy = (float(values[-LAST // EVERY :].mean()) for values in curve)
            methods = ["FedAvg"] if late == "drop" else [f"FedProx, mu {mu:g}"]
            methods += ["FedAvg"] if (late, mu, share) == ("keep", 0.0, 0.0) else []
            yield from (Line(name, share, method, seed, loss, accuracy) for method in methods)


def table(found: list[Line]) -> str:
    """Returns mean and standard deviation of loss and accuracy over seeds."""
    methods = "FedAvg", FREE, PULLED
    rows = [f"| synthetic | stragglers | {' | '.join(f'{method}: loss | accuracy' for method in methods)} |"]
    rows.append("|---" * (2 + 2 * len(methods)) + "|")
    for name in dict.fromkeys(line.data for line in found):
        for share in SHARES:
            cells = [[line for line in found if line[:3] == (name, share, method)] for method in methods]
            rows.append(f"| {name} | {share:.0%} | {' | '.join(map(figures, cells))} |")
    return "\n".join(rows)


def figures(cell: list[Line]) -> str:
    """Two cells of a row."""
    loss, accuracy = (np.array([getattr(line, name) for line in cell]) for name in ("loss", "accuracy"))
    return f"{loss.mean():.2f} ± {loss.std():.2f} | {100 * accuracy.mean():.1f} ± {100 * accuracy.std():.1f} %"


def claims(found: list[Line]) -> str:
    """Returns the table of the orders of training loss that the paper claims, and how many seeds agree."""
    loss = {line[:4]: line.loss for line in found}
    seeds = sorted({line.seed for line in found})
    rows = ["| the paper says | loss of | is below that of | in seeds |", "|---|---|---|---|"]
    for words, low, high in CLAIMS:
        agree = sum(loss[*low, seed] < loss[*high, seed] for seed in seeds)
        rows.append(f"| {words} | {_named(low)} | {_named(high)} | {agree} of {len(seeds)} |")
    return "\n".join(rows)


def _named(cell: Cell) -> str:
    data, share, method = cell
    return f"{data}, {share:.0%}, {method}"
