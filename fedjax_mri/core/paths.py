"""Leaves of a tree by patterns on their paths: what stays with a client, what is frozen, what learns more slowly.

A path reads blocks/0/norm/scale, in a whole model params/blocks/0/norm/scale. A pattern names one or more neighbouring
parts of it, with * and ? as in file names: `logits`, `norm*`, `blocks/0`, `carry`.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

from fedjax_mri.core.errors import UserError

PyTree = Any
SHOWN = 12  # paths in a message


def matching(tree: PyTree, patterns: Sequence[str]) -> PyTree:
    """Whether any of the patterns matches, bool at each leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, _: any(matches(one, name(path)) for one in patterns), tree)


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern names some neighbouring parts of a path."""
    return fnmatchcase(f"/{path}/", f"*/{pattern.strip('/')}/*")


def name(path: Any) -> str:
    """A leaf's path as a user writes it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check(tree: PyTree, patterns: Sequence[str], field: str) -> None:
    """Raises UserError, naming the paths there are, when a pattern matches none of them."""
    paths = [name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
            raise UserError(f"{field}: {pattern!r} matches nothing; there are {', '.join(paths[:SHOWN])}{more}")
