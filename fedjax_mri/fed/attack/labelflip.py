"""Label flip: every class c of C becomes C - 1 - c.

Fang, Cao, Jia, Gong: Local Model Poisoning Attacks to Byzantine-Robust Federated Learning, USENIX Security 2020 (arXiv
1911.11815), section 5.1.
"""

from dataclasses import dataclass

from fedjax_mri.fed.attack.contract import Attack, Attackers


@dataclass(frozen=True)
class LabelFlip(Attackers):
    """Settings of attackers that train on flipped labels."""

    def build(self, classes: int) -> Attack:
        """Returns the attack."""
        flip = lambda batch, keys: {**batch, "label": classes - 1 - batch["label"]}  # noqa: E731
        return Attack("labelflip", poison=flip, fields=("label",), measured=True)
