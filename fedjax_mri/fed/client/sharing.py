"""Parts of a model that stay with their client, by patterns on the paths of their leaves (`paths.py`).

A path begins with params/, or with carry/ for what changes without a gradient.
"""

from collections.abc import Sequence
from typing import Any

import jax

from fedjax_mri.core import paths
from fedjax_mri.tasks.task import Model, Task

PyTree = Any


def kept_by_clients(task: Task, patterns: Sequence[str], field: str) -> Task:
    """`task`, of whose model the parts that match stay with each client. Raises UserError where a pattern has none."""
    paths.check(jax.eval_shape(task.init, jax.random.key(0)), patterns, field)

    def shared(model: Model) -> PyTree:
        own = paths.matching(model, patterns)
        return jax.tree.map(lambda travels, own: travels and not own, task.shared(model), own)

    return task._replace(shared=shared)
