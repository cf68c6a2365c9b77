"""Parts of a model that stay with each client, chosen by patterns on the paths of their leaves (`paths.py`).

A path begins with params/, or with carry/ for leaves that change without a gradient.
"""

from collections.abc import Sequence
from typing import Any

import jax

from fedjax_mri.core import paths
from fedjax_mri.tasks.task import Model, Task

PyTree = Any


def kept_by_clients(task: Task, patterns: Sequence[str], field: str) -> Task:
    """Returns `task` with the parts of its model that match a pattern kept by each client.

    Raises UserError, which names the `field` of the config, if a pattern matches nothing.
    """
    paths.check(jax.eval_shape(task.init, jax.random.key(0)), patterns, field)

    def shared(model: Model) -> PyTree:
        own = paths.matching(model, patterns)
        return jax.tree.map(lambda travels, own: travels and not own, task.shared(model), own)

    return task._replace(shared=shared)
