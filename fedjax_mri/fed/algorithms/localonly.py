"""Local training alone: the baseline in which nothing travels.

Each client goes on from its own model whenever it is called; all began with the same. A site that took no part is
judged with the mean of the models there are.
"""

from dataclasses import dataclass

import jax

from fedjax_mri.fed.algorithm import Algorithm
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.tasks.task import Task


@dataclass(frozen=True)
class LocalOnly:
    """There is nothing to set."""

    def build(self) -> Algorithm:
        """Nothing can be wrong."""
        return FedAvg().build()._replace(task=alone)


def alone(task: Task) -> Task:
    """`task`, of whose model nothing travels."""
    return task._replace(shared=lambda model: jax.tree.map(lambda _: False, model))
