"""Local training alone: the baseline in which nothing travels.

Each client continues from its own model whenever it is drawn; all start from the same one. A site that took no part is
evaluated with the mean of the clients' models.
"""

from dataclasses import dataclass

import jax

from fedjax_mri.fed.algorithm import Algorithm
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.tasks.task import Task


@dataclass(frozen=True)
class LocalOnly:
    """Local training alone, which has no settings."""

    def build(self) -> Algorithm:
        """Returns the algorithm."""
        return FedAvg().build()._replace(task=alone)


def alone(task: Task) -> Task:
    """Returns `task` with a model of which no part is shared."""
    return task._replace(shared=lambda model: jax.tree.map(lambda _: False, model))
