"""Selects leaves of a tree by patterns on their paths, such as the leaves that stay with a client or are frozen.

A path reads blocks/0/norm/scale, or params/blocks/0/norm/scale in a whole model. A pattern matches one or more
neighbouring parts of it, with * and ? as in file names: `logits`, `norm*`, `blocks/0`, `carry`.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

from fedjax_mri.core.errors import UserError

PyTree = Any
SHOWN = 12  # most paths in a message


def matching(tree: PyTree, patterns: Sequence[str]) -> PyTree:
    """Returns a tree of bool: at each leaf, whether any of the patterns matches its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(matches(pattern, name(path)) for pattern in patterns), tree
    )


def matches(pattern: str, path: str) -> bool:
    """Returns whether a pattern matches one or more neighbouring parts of a path."""
    return fnmatchcase(f"/{path}/", f"*/{pattern.strip('/')}/*")


def name(path: Any) -> str:
    """Returns the path of a leaf as a user writes it, such as blocks/0/norm/scale."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check(tree: PyTree, patterns: Sequence[str], field: str) -> None:
    """Raises UserError, which lists the paths of the tree, if a pattern matches none of them."""
    paths = [name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
            raise UserError(f"{field}: {pattern!r} matches nothing; there are {', '.join(paths[:SHOWN])}{more}")
