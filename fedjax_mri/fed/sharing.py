"""Parts of a model that stay with their client, by patterns on the paths of their leaves.

A path reads params/blocks/0/norm/scale; carry/... is what changes without a gradient. A pattern names one or more
neighbouring parts of it, with * and ? as in file names: `logits`, `norm*`, `blocks/0`, `carry`.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

from fedjax_mri.errors import UserError
from fedjax_mri.tasks.task import Model, Task

PyTree = Any
SHOWN = 12  # paths in a message


def private(task: Task, patterns: Sequence[str], field: str) -> Task:
    """`task`, of whose model the parts that match stay with each client. Raises UserError where a pattern has none."""
    check(jax.eval_shape(task.init, jax.random.key(0)), patterns, field)

    def shared(model: Model) -> PyTree:
        return jax.tree.map(lambda travels, own: travels and not own, task.shared(model), matching(model, patterns))

    return task._replace(shared=shared)


def matching(model: Model, patterns: Sequence[str]) -> PyTree:
    """Whether any of the patterns matches, bool at each leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, _: any(matches(one, name(path)) for one in patterns), model)


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern names some neighbouring parts of a path."""
    return fnmatchcase(f"/{path}/", f"*/{pattern.strip('/')}/*")


def name(path: Any) -> str:
    """A leaf's path as a user writes it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check(model: Model, patterns: Sequence[str], field: str) -> None:
    """Raises UserError, naming the paths there are, when a pattern matches none of them."""
    paths = [name(path) for path, _ in jax.tree_util.tree_leaves_with_path(model)]
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
            raise UserError(f"{field}: {pattern!r} matches nothing; there are {', '.join(paths[:SHOWN])}{more}")
