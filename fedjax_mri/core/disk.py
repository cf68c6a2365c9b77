"""Atomic writing: after a crash a file holds either its old or its new content, never a part."""

import contextlib
import io
import json
import os
import pathlib
from typing import Any


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes `content` to a JSON file, atomically."""
    write_text(path, json.dumps(content, indent=1))


def write_text(path: pathlib.Path, content: str) -> None:
    """Writes `content` to a text file in UTF-8, atomically.

    Python reads a path that it cannot decode as surrogates, which turn into the path's own bytes again.
    """
    write_bytes(path, content.encode(errors="surrogateescape"))


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes `content` to a file, atomically. An OSError names the file."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")  # several shards of a study may write the same file
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        error.filename = str(path)  # not the draft's
        raise
    finally:
        with contextlib.suppress(OSError):  # there is no draft where its folder is a file
            draft.unlink()


def encoded(figure: Any, dpi: int = 110, kind: str = "png", **options: Any) -> bytes:
    """Returns a Matplotlib figure as the bytes of a file, so that it can be written atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, **options)
    return buffer.getvalue()


def write_cache(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that later runs may reuse, atomically. A file that cannot be written is skipped."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
