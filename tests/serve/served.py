"""A server in this process, with a client for each user; the worker works when it is told to."""

import io
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from fedjax_mri.serve import app, command, scheduler, worker
from fedjax_mri.serve.command import Choices
from fedjax_mri.serve.scheduler import Worker
from fedjax_mri.serve.settings import Settings

HTML = {"accept": "text/html"}


class Served:
    """A server on a folder; jobs are worked on by `work`."""

    def __init__(self, runs: pathlib.Path, home: pathlib.Path, settings: Settings | None = None, **choices: Any):
        self.home, self.settings = home, settings or Settings(batch=2)
        home.mkdir(exist_ok=True)
        self.server = command.build(Choices([runs], home, **choices), self.settings)
        (home / scheduler.STATE).write_text("ready")
        self.worker = Worker(self.server.home, self.server.places, self.settings, {})
        self.scheme = "https" if self.server.access.secure else "http"

    def client(self, **more: Any) -> TestClient:
        base = f"{self.scheme}://localhost"
        return TestClient(app.build(self.server), base, headers=HTML, follow_redirects=False, **more)

    def work(self) -> None:
        while worker.step(self.worker):
            pass


def csrf(client: TestClient, path: str = "/convert") -> str:
    return re.search(r'name="csrf" value="(\w+)"', client.get(path).text)[1]


def send(client: TestClient, files: Mapping[str, bytes], kind: str = "convert", **fields: str) -> Any:
    token = {"csrf": fields.pop("csrf", None) or csrf(client, f"/{kind}")}
    named = [("files", pair) for pair in files.items()] or [("files", ("", b""))]
    return client.post(f"/{kind}", data=token | fields, files=named)


def error(answer: Any) -> str:
    return re.search(r'id="error"[^>]*>(.*?)<', answer.text)[1]


def picture(level: float = 0.5, size: tuple[int, int] = (20, 30), kind: str = "PNG") -> bytes:
    """A slope and a level by which pictures differ."""
    rows, columns = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    file = io.BytesIO()
    Image.fromarray(np.uint8(255 * np.clip(level * rows + (1 - level) * columns, 0, 1))).save(file, kind)
    return file.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
