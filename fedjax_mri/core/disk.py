"""Files that are there whole or not at all."""

import contextlib
import json
import os
import pathlib
from typing import Any


def write_json(path: pathlib.Path, content: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(content, indent=1))


def write_text(path: pathlib.Path, content: str) -> None:
    """Whole or not at all."""
    write_bytes(path, content.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")  # several shards of a study may write the same file
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def remember(path: pathlib.Path, content: bytes) -> None:
    """For a later run, whole or not at all; where nothing can be written, nothing is remembered."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
