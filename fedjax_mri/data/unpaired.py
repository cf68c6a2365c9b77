"""CT and MR that do not belong together: what an unpaired translator may learn from."""

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
    """`source`, whose examples hold a registered CT and MR, with the MR of another example of the same site.

    Training examples hold the CT of one example, with all else that is known of it, and the MR of the one half the site
    away. That is another patient where each example is of another one, as in the phantom; slices of one patient stay
    together in a site, so that with them it may be another slice of the same patient, which a warning says. Test sets
    stay paired: the truth is for evaluation alone.
    """

    source: Source

    def build(self, seed: int) -> Federation:
        """Returns the source's federation, unpaired, in which sites of one example train nothing.

        Raises UserError where the source does.
        """
        federation = self.source.build(seed)
        patients, sizes = federation.train.patients, federation.train.sizes
        single = int(np.sum(sizes == 1))
        warnings = [*federation.warnings]
        if single:
            warnings.append(f"{single} sites with one example train nothing: there is no other to take the MR from")
        if patients is None or np.any(patients != sizes):
            warnings.append("the CT and the MR of a step are of different examples, which may be of one patient")
        return federation._replace(train=with_mr_of_others(federation.train), warnings=tuple(warnings))

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the source's own test sets, which stay paired."""
        return self.source.evaluation(classes, seed)


def with_mr_of_others(data: ClientData) -> ClientData:
    """Returns `data` in which each example's "mr" is that of another example of the same client."""
    sizes = np.where(data.sizes == 1, 0, data.sizes).astype(np.int32)

    def read(store: tuple[Any, jax.Array], client: jax.Array, indices: jax.Array) -> Batch:
        inner, size = store[0], jnp.maximum(jnp.asarray(store[1])[client], 1)
        other = data.read(inner, client, (indices + size // 2) % size)
        return {**data.read(inner, client, indices), "mr": other["mr"]}

    return data._replace(sizes=sizes, store=(whole(data), sizes), read=read, fetch=None, patients=None)
