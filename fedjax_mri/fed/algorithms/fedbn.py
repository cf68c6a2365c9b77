"""FedBN.

Li, Jiang, Zhang, Kamp, Dou: FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021
(arXiv 2102.07623), algorithm 1: normalisation layers, their statistics included, stay with the client; the rest learns
by `base`, in the paper federated averaging.
"""

from dataclasses import dataclass, field
from typing import Any

from fedjax_mri.fed.algorithm import Algorithm
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.sharing import kept_by_clients


@dataclass(frozen=True)
class FedBN:
    """Settings of FedBN."""

    norms: tuple[str, ...] = ("norm*",)  # patterns of the layers that stay, see paths.py
    base: Any = field(default_factory=FedAvg)  # how the rest is learnt

    def build(self) -> Algorithm:
        """Returns the algorithm.

        Raises UserError if the settings of `base` are refused. A pattern that matches no parameter is refused later,
        when the algorithm is given the task.
        """
        algorithm: Algorithm = self.base.build()
        return algorithm._replace(
            task=lambda task: kept_by_clients(algorithm.task(task), self.norms, "algorithm.norms")
        )
