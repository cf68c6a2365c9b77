"""FedPer.

Arivazhagan, Aggarwal, Singh, Choudhary: Federated Learning with Personalization Layers, 2019 (arXiv 1912.00818),
algorithms 1 and 2: each client keeps a head of its own, and trains it together with the body that all share, which
learns by `base`, in the paper federated averaging.
"""

from dataclasses import dataclass, field
from typing import Any

from fedjax_mri.fed.algorithm import Algorithm
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.sharing import kept_by_clients


@dataclass(frozen=True)
class FedPer:
    """Settings of FedPer."""

    head: tuple[str, ...] = ("logits",)  # patterns of what stays with the client, see paths.py
    base: Any = field(default_factory=FedAvg)  # how the rest is learnt

    def build(self) -> Algorithm:
        """Returns the algorithm.

        Raises UserError if the settings of `base` are refused. A pattern that matches no parameter is refused later,
        when the algorithm is given the task.
        """
        algorithm: Algorithm = self.base.build()
        return algorithm._replace(task=lambda task: kept_by_clients(algorithm.task(task), self.head, "algorithm.head"))
