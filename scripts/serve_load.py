"""Loads a page with many users at once, and checks each result against its own source.

    python scripts/serve_load.py RUN --users 50 --turns 20 --large 180 --kill

It starts `fedjax-mri serve` with the run, lets users send pictures, NIfTI volumes, DICOM images and zips, 5 % of them
broken, sends a volume of many MB meanwhile, and asks for /health all the time. With --kill the server is killed by
SIGKILL in the middle and started again. At the end each result is fetched and compared with what the run's model makes
of the source that was sent, by this process. Data: shapes of random size and value (synthetic).
"""

import argparse
import io
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import nibabel
import numpy as np
from PIL import Image
from pydicom import dcmread, examples

from fedjax_mri.convert import command, translate
from fedjax_mri.data.files import discover
from fedjax_mri.serve.runs import find

HTML = {"accept": "text/html"}
KINDS = ("png", "jpg", "nii.gz", "dcm", "zip")
BROKEN = 0.05
# between results of one source in other batches, one level of which JPEG makes two; those of two sources differ by 7 or
# more, by 61 in the median of 192
ROUNDING = 4 / 255


class Sent(NamedTuple):
    """A job that was accepted."""

    place: str
    files: dict[str, bytes]
    broken: bool


class Figures(NamedTuple):
    """What was measured."""

    accepted: list[float]  # seconds of each upload until its job was accepted
    done: list[float]  # seconds from the upload's start until the result was there
    health: list[float]  # seconds of each answer to /health
    busy: list[int]  # an element for each answer 503
    refused: list[int]  # an element for each zip that was refused at once, as it is broken


def image(rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """A head of random values, uint8 [size, size]."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    left, top, level = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(60, 120)
    head = level * (x**2 + y**2 < 0.7) + 100 * ((x - left) ** 2 + (y - top) ** 2 < 0.03)
    return np.uint8(np.clip(head + rng.normal(0, 3, head.shape), 0, 255))


def encoded(rng: np.random.Generator, kind: str) -> bytes:
    """A file of a kind, as a scanner or a user would send it."""
    file = io.BytesIO()
    if kind in ("png", "jpg"):
        Image.fromarray(image(rng)).save(file, "PNG" if kind == "png" else "JPEG")
    elif kind == "nii.gz":
        return volume(rng, 3, 64)
    elif kind == "dcm":
        one = examples.ct
        one.PixelData = (image(rng, 128).astype(np.int16) * 8).tobytes()
        one.SOPInstanceUID = f"1.2.826.{rng.integers(2**40)}"
        one.save_as(file, enforce_file_format=True)
    else:
        with zipfile.ZipFile(file, "w") as archive:
            for number in range(2):
                archive.writestr(f"{number}.png", encoded(rng, "png"))
    return file.getvalue()


def volume(rng: np.random.Generator, slices: int, size: int, packed: bool = True) -> bytes:
    """A CT volume as NIfTI."""
    values = np.stack([image(rng, size) for _ in range(slices)], -1).astype(np.int16) * 10 - 1000
    content = nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 4.0, 1.0])).to_bytes()
    if not packed:
        return content
    import gzip

    return gzip.compress(content, 1)


class Server:
    """A server in a process of its own."""

    def __init__(self, run: Path, home: Path, port: int, users: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.words = [sys.executable, "-m", "fedjax_mri", "serve", str(run), "--out", str(home), f"--port={port}"]
        self.words += [f"--queue={2 * users}"]
        self.start()

    def start(self) -> None:
        """Starts the process, and waits until it answers."""
        self.process = subprocess.Popen(self.words, stdout=subprocess.DEVNULL)
        while True:
            try:
                httpx.get(f"{self.url}/health", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.2)

    def ready(self) -> None:
        """Waits until the worker has started."""
        while httpx.get(f"{self.url}/health", timeout=5).json()["worker"] != "ready":
            time.sleep(0.2)


def persist(ask: Any, figures: Figures) -> httpx.Response:
    """The answer to a request, asked again while the server is down or its queue is full."""
    while True:
        try:
            answer = ask()
        except httpx.TransportError:
            time.sleep(0.5)
            continue
        if answer.status_code != 503:
            return answer
        figures.busy.append(1)
        time.sleep(float(answer.headers["retry-after"]) * np.random.default_rng().uniform(0.1, 0.5))


def user(
    url: str, number: int, turns: int, target: str, figures: Figures, sent: list[tuple[httpx.Client, Sent]]
) -> None:
    """Sends files and waits for each result, as a person does."""
    rng, client = np.random.default_rng(number), httpx.Client(base_url=url, headers=HTML, timeout=60)
    token = re.search(r'name="csrf" value="(\w+)"', persist(lambda: client.get("/convert"), figures).text)
    assert token is not None
    for turn in range(turns):
        kind = KINDS[rng.integers(len(KINDS))]
        content, broken = encoded(rng, kind), bool(rng.random() < BROKEN)
        content = content[: len(content) // 3] if broken else content
        name, start = f"u{number}-t{turn}.{kind}", time.monotonic()
        fields = {"csrf": token[1], "run": target}
        answer = persist(lambda: client.post("/convert", data=fields, files={"files": (name, content)}), figures)  # noqa: B023
        if answer.status_code == 422 and broken and kind == "zip":
            figures.refused.append(1)
            continue
        assert answer.status_code == 303, answer.text
        place = answer.headers["location"]
        figures.accepted.append(time.monotonic() - start)
        while "data-refresh" in persist(lambda: client.get(place), figures).text:  # noqa: B023
            time.sleep(1.0)  # as the page does
        figures.done.append(time.monotonic() - start)
        sent.append((client, Sent(place, {name: content}, broken)))


def check(client: httpx.Client, one: Sent, job: command.Job, folder: Path) -> str:
    """What is wrong with a result; "" where it is what the command makes of its source."""
    folder.mkdir(parents=True)
    for name, content in one.files.items():
        if name.endswith(".zip") and not one.broken:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                archive.extractall(folder)
        else:
            (folder / name).write_bytes(content)
    expected: dict[str, np.ndarray] = {}
    out = folder / "out"
    files, _ = discover.find([folder])
    command.convert(job._replace(out=out), files, lambda line: None, lambda count: None)
    expected = {path.name.partition(".")[0]: pixels(path.read_bytes(), path.name) for path in out.glob("*")}
    answer = client.get(f"{one.place}/all.zip")
    if answer.status_code != 200:
        return "" if one.broken and not expected else f"{one.place}: lost, {answer.status_code}"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        made = {
            name.replace("_mr.", ".").partition(".")[0]: pixels(archive.read(name), name) for name in archive.namelist()
        }
    if set(made) != set(expected):
        return f"{one.place}: has {sorted(made)}, not {sorted(expected)}"
    far = {name: float(np.abs(made[name] - expected[name]).max()) for name in made}
    far = {name: round(difference, 3) for name, difference in far.items() if difference > ROUNDING}
    return f"{one.place}: {list(one.files)} differ from what the command makes by {far}" if far else ""


def pixels(content: bytes, name: str) -> np.ndarray:
    """The values of a result as shares of white."""
    if name.endswith((".nii.gz", ".nii")):
        import gzip

        return nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).get_fdata()
    if name.endswith(".dcm"):
        return dcmread(io.BytesIO(content)).pixel_array / 4095
    return np.asarray(Image.open(io.BytesIO(content))) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    for name, usual, text in (
        ("users", 50, "at once"),
        ("turns", 20, "files of each"),
        ("large", 180, "MB of a volume that is sent meanwhile; 0: none"),
    ):
        parser.add_argument(f"--{name}", type=int, default=usual, help=text)
    parser.add_argument("--kill", action="store_true", help="kill the server in the middle, and start it again")
    options = parser.parse_args()
    figures, sent = Figures([], [], [], [], []), list[tuple[httpx.Client, Sent]]()
    target = f"{next(iter(find([options.run])))} to mr"
    with socket.socket() as free, tempfile.TemporaryDirectory() as temporary:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = Server(options.run, Path(temporary) / "home", port, options.users)
        server.ready()
        watcher = subprocess.Popen([sys.executable, "-c", WATCH, server.url], stdout=subprocess.PIPE, text=True)
        threads = [
            threading.Thread(target=user, args=(server.url, number, options.turns, target, figures, sent))
            for number in range(options.users)
        ]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        if options.large:
            rng = np.random.default_rng(10**6)
            content = volume(rng, options.large * 2, 512, packed=False)  # 512 x 512 x 2 bytes a slice
            client = httpx.Client(base_url=server.url, headers=HTML, timeout=600)
            token = re.search(r'name="csrf" value="(\w+)"', persist(lambda: client.get("/convert"), figures).text)
            assert token is not None
            fields, began = {"csrf": token[1], "run": target}, time.monotonic()
            file = {"files": ("large.nii", content)}
            answer = persist(lambda: client.post("/convert", data=fields, files=file), figures)
            assert answer.status_code == 303, answer.text
            print(f"{len(content) / 1e6:.0f} MB sent in {time.monotonic() - began:.1f} s", flush=True)
        if options.kill:
            while len(sent) < options.users * options.turns // 2:
                time.sleep(0.1)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            server.start()
            print(f"killed and started again after {len(sent)} results", flush=True)
        for thread in threads:
            thread.join()
        if options.large:
            while "data-refresh" in persist(lambda: client.get(answer.headers["location"]), figures).text:
                time.sleep(1)
            print(f"large volume: {client.get(answer.headers['location']).status_code} (303: there)", flush=True)
        seconds = time.monotonic() - start
        watcher.kill()
        figures.health.extend(map(float, watcher.communicate()[0].split()))
        job = command.prepare(
            translate.translate(next(iter(find([options.run]).values())), "mr"), "mr", Path(temporary)
        )
        checked = [check(c, one, job, Path(temporary) / f"check{n}") for n, (c, one) in enumerate(sent)]
        server.process.terminate()
    broken, wrong = sum(one.broken for _, one in sent), list(filter(None, checked))
    print(f"{len(sent)} jobs in {seconds:.0f} s, {broken} of them broken files; wrong: {wrong or 'none'}")
    for name, values in figures._asdict().items():
        if name in ("accepted", "done", "health"):
            p50, p95, most = np.percentile(values, (50, 95, 100))
            print(f"{name}: p50 {p50:.3f} s, p95 {p95:.3f} s, most {most:.3f} s")
    print(f"answers 503: {len(figures.busy)}; broken zips refused at once: {len(figures.refused)}")


WATCH = """
import sys, time, urllib.request
while True:
    start = time.monotonic()
    try:
        urllib.request.urlopen(sys.argv[1] + "/health", timeout=60).read()
        print(time.monotonic() - start, flush=True)
    except OSError:
        pass
    time.sleep(0.1)
"""  # a process of its own: this one is busy as all users


if __name__ == "__main__":
    main()
