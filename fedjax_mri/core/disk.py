"""Atomic writing: after a crash a file holds either its old or its new content, never a part."""

import contextlib
import json
import os
import pathlib
from typing import Any


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes `content` to a JSON file, atomically."""
    write_text(path, json.dumps(content, indent=1))


def write_text(path: pathlib.Path, content: str) -> None:
    """Writes `content` to a text file in UTF-8, atomically."""
    write_bytes(path, content.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes `content` to a file, atomically."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")  # several shards of a study may write the same file
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def remember(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that later runs may reuse, atomically. A file that cannot be written is skipped."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
