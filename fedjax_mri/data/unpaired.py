"""CT and MR of different patients: what an unpaired translator may learn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.contract import Batch, ClientData, Federation, Source, Table, Test
from fedjax_mri.data.resident import whole


@dataclass(frozen=True)
class Unpaired:
    """`source`, which has CT and MR of each patient, as hospitals that never see both of one.

    Training examples hold the CT of one patient, with all else that is known of him, and the MR of another of the same
    site, half the site away. Test sets stay paired: the truth is for evaluation alone.
    """

    source: Source

    def build(self, seed: int) -> Federation:
        """Returns the source's federation, unpaired, in which sites of one patient train nothing.

        Raises UserError where the source does.
        """
        federation = self.source.build(seed)
        single = int(np.sum(federation.train.sizes == 1))
        warnings = (f"{single} sites with a single patient train nothing: there is no other to take the MR from",)
        all_warnings = (*federation.warnings, *(warnings if single else ()))
        return federation._replace(train=with_mr_of_others(federation.train), warnings=all_warnings)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the source's own test sets, which stay paired."""
        return self.source.evaluation(classes, seed)


def with_mr_of_others(data: ClientData) -> ClientData:
    """Returns `data` in which each example's "mr" is that of another patient of the same client."""
    sizes = np.where(data.sizes == 1, 0, data.sizes).astype(np.int32)

    def read(store: tuple[Any, jax.Array], client: jax.Array, indices: jax.Array) -> Batch:
        inner, size = store[0], jnp.maximum(jnp.asarray(store[1])[client], 1)
        other = data.read(inner, client, (indices + size // 2) % size)
        return {**data.read(inner, client, indices), "mr": other["mr"]}

    return data._replace(sizes=sizes, store=(whole(data), sizes), read=read, fetch=None, patients=None)
