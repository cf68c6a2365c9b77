"""Atomic writing: after a crash a file is the old one or the new one, never a part."""

import contextlib
import json
import os
import pathlib
from typing import Any


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes content as JSON, atomically."""
    write_text(path, json.dumps(content, indent=1))


def write_text(path: pathlib.Path, content: str) -> None:
    """Writes text as UTF-8, atomically."""
    write_bytes(path, content.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes bytes, atomically."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")  # several shards of a study may write the same file
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def remember(path: pathlib.Path, content: bytes) -> None:
    """Writes a file for later runs to reuse, atomically; where it cannot be written, it is left out."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
