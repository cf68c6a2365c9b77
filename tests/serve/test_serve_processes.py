"""The server as processes: killed in the middle under load, driven by a browser, and asked by a DICOMweb client."""

import contextlib
import io
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import examples
from served import HTML, csrf, picture, send
from test_translate import CONFIG, saved

from fedjax_mri.convert.translate import translate
from fedjax_mri.fed.algorithms.fedavg import FedAvg

DOCS = pathlib.Path(__file__).parents[2] / "docs"
CHROMIUM = pathlib.Path("/usr/bin/chromium")
USERS, TURNS = 5, 4
BROKEN = 7  # one file of so many
PATIENCE = 120  # seconds; the machine may be busy


class Process:
    """`fedjax-mri serve` on a free port."""

    def __init__(self, runs: pathlib.Path, home: pathlib.Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.words = [sys.executable, "-m", "fedjax_mri", "serve", str(runs), "--out", str(home)]
        self.words += ["--port", str(self.port), "--batch", "2", "--upload_mb", "2"]
        self.url, self.log = f"http://localhost:{self.port}", home.with_suffix(".log")
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.words, stdout=log, stderr=log, start_new_session=True)
        wait(self.is_up, lambda: self.log.read_text())

    def is_up(self) -> bool:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.url}/health").status == 200
        return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def wait(done: Any, said: Any = str) -> None:
    until = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < until, said()
        time.sleep(0.3)  # each look costs time of the processor that is waited for


@pytest.fixture(scope="module")
def process(tmp_path_factory) -> Iterator[Process]:
    home = tmp_path_factory.mktemp("processes")
    (home / "runs").mkdir()
    saved(home / "runs" / "rand", replace(CONFIG, algorithm=FedAvg()))
    found = Process(home / "runs", home / "home")
    found.runs = home / "runs"
    yield found
    found.process.terminate()
    assert found.process.wait(20) in (0, -signal.SIGTERM, 128 + signal.SIGTERM), found.log.read_text()


def expected(translator: Any, level: float) -> np.ndarray:
    """The picture that is made of one, of the model's own size."""
    source = np.asarray(Image.open(io.BytesIO(picture(level, (24, 24))))) / np.float32(255)
    hu = (2 * source - 1)[None, ..., None].astype(np.float32)
    return 255 * np.clip(translator.draw("mr", hu, None)[0, ..., 0], 0, 1)


def test_nothing_is_lost_or_mixed_up_when_the_server_is_killed_under_load(process) -> None:
    """Users send at once; each result is compared with what the model makes of its own source."""
    translator = translate(process.runs / "rand", "mr")
    clients = [httpx.Client(base_url=process.url, headers=HTML, timeout=PATIENCE, verify=False) for _ in range(USERS)]

    def user(number: int) -> list[tuple[str, float | None]]:
        found = []
        for turn in range(TURNS):
            one = number * TURNS + turn
            level = None if one % BROKEN == BROKEN - 1 else one / (USERS * TURNS)
            content = picture(level or 0, (24, 24))
            answer = send(
                clients[number], {f"{one}.png": content[: 50 if level is None else None]}, run="runs/rand to mr"
            )
            assert answer.status_code == 303, answer.text
            found.append((answer.headers["location"], level))
        return found

    with ThreadPoolExecutor(USERS) as pool:
        sent = list(pool.map(user, range(USERS)))
    process.kill()
    process.start()
    assert process.log.read_text().count("Traceback") == 0
    for client, jobs in zip(clients, sent):
        for place, level in jobs:
            wait(lambda place=place, client=client: "data-refresh" not in client.get(place).text)
            answer = client.get(f"{place}/0/file/0")
            if level is None:
                assert answer.status_code == 404 and "1 refused" in client.get(place).text
                continue
            made = np.asarray(Image.open(io.BytesIO(answer.content))).astype(float)
            np.testing.assert_allclose(made, expected(translator, level), atol=1)


@pytest.fixture(scope="module")
def page(process) -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"the browser is not there: {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        found = browser.new_page(base_url=process.url)
        found.set_default_timeout(1000 * PATIENCE)
        found.complaints = []
        found.on("console", lambda one: found.complaints.append(one.text) if one.type == "error" else None)
        found.on("pageerror", lambda one: found.complaints.append(str(one)))
        yield found
        browser.close()


def test_in_a_browser_from_upload_to_download_and_an_error(page, tmp_path) -> None:
    (tmp_path / "head.png").write_bytes(picture())
    (tmp_path / "note.txt").write_text("no image at all, but words")
    page.goto("/")
    page.select_option("#run", "runs/rand to mr")
    page.set_input_files("#files", tmp_path / "note.txt")
    page.click("button:text-is('Convert')")
    page.wait_for_selector("#error:visible")
    assert "note.txt: of no kind that can be read" in page.inner_text("#error")
    page.complaints.clear()  # the browser's line on the status 415
    page.set_input_files("#files", tmp_path / "head.png")
    page.click("button:text-is('Convert')")
    page.wait_for_selector("[data-viewer]")
    shown = page.locator('.pair > figure > img[data-kind="result"]')
    shown.evaluate("image => image.decode()")
    assert shown.evaluate("image => image.naturalWidth") == 30
    before = shown.get_attribute("src")
    page.fill('[data-width="result"]', "0.25")
    page.wait_for_function(
        "before => !document.querySelector('img[data-kind=result]').src.endsWith(before)", arg=before
    )
    with page.expect_download() as download:
        page.click("text=Download head_mr.png")
    assert Image.open(download.value.path()).size == (30, 20)
    assert page.complaints == []


def test_in_a_browser_by_keys_alone_on_a_narrow_screen(page, tmp_path) -> None:
    """Each step is a Tab, an arrow or Enter, and what has the focus shows it; nothing is wider than the screen."""
    page.set_viewport_size({"width": 320, "height": 640})
    (tmp_path / "head.png").write_bytes(picture(0.8))
    page.on("filechooser", lambda chooser: chooser.set_files(tmp_path / "head.png"))  # known before Enter is pressed
    page.goto("/convert")

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert style != "none", selector
                return
        raise AssertionError(selector)

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to("#run")
    page.keyboard.press("End")
    assert page.input_value("#run") == "runs/rand to mr"
    tab_to("#files")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#files').files.length === 1")
    tab_to("form[data-upload] button")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-viewer]")
    tab_to("[data-divide]")
    page.keyboard.press("ArrowRight")
    assert page.input_value("[data-divide]") == "51"
    tab_to("summary")
    page.keyboard.press("Enter")
    tab_to("[data-region] button")
    for path in (page.url, "/convert", "/explain", "/runs"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, path
    assert page.complaints == []


def test_an_archive_sends_a_series_and_fetches_what_was_made_of_it(process) -> None:
    """By the code of docs/serve.md, on either side of the wait for the result."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "serve.md").read_text(), re.S)
    before, after = (
        code.replace("http://127.0.0.1:8765", process.url).replace("runs/pix2pix", "runs/rand").split("made = ")
    )
    series: list[pydicom.Dataset] = []
    names: dict[str, Any] = {"series": series}
    for number in range(2):
        one = examples.ct
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number}"
        one.ImagePositionPatient, one.PatientID = [0, 0, 5 * number], "P1"
        series.append(one)
    exec(before.replace("archive.store", "answer = archive.store"), names)
    answer, archive = names["answer"], names["archive"]
    assert [one.ReferencedSOPInstanceUID for one in answer.ReferencedSOPSequence] == ["1.2.3.4.0", "1.2.3.4.1"]
    study = series[0].StudyInstanceUID
    wait(lambda: archive.search_for_series(study))
    exec(f"made = {after}", names)
    (told,) = archive.search_for_series(study, search_filters={"Modality": "MR", "PatientID": "P*"})
    made = told["0020000E"]["Value"][0]
    assert (
        made != series[0].SeriesInstanceUID
        and archive.search_for_series(study, search_filters={"Modality": "CT"}) == []
    )
    assert len(archive.search_for_studies()) == 1 and len(archive.search_for_instances(study, made)) == 2
    found = names["datasets"]
    assert {one.Modality for one in found} == {"MR"} and {one.PatientID for one in found} == {"P1"}
    sources = {one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in found}
    assert sources == {"1.2.3.4.0", "1.2.3.4.1"}
    one = archive.retrieve_instance(study, made, found[0].SOPInstanceUID)
    np.testing.assert_array_equal(one.pixel_array, found[0].pixel_array)
    metadata = pydicom.Dataset.from_json(archive.retrieve_series_metadata(study, made)[0])
    assert "synthetic" in metadata.DerivationDescription and "PixelData" not in metadata
    plain = httpx.Client(base_url=process.url, verify=False)
    for path, status in (
        ("nothing/mr/studies", 404),
        ("runs/rand/mr/studies/1.2.3", 404),
        ("runs/rand/pet/studies", 404),
    ):
        assert plain.get(f"/dicomweb/{path}").status_code == status
    assert plain.get("/dicomweb/runs/rand/mr/studies?Nonsense=1").status_code == 400
    text = b"--x\r\nContent-Type: application/dicom\r\n\r\nwords\r\n--x--\r\n"
    kind = {"content-type": 'multipart/related; type="application/dicom"; boundary=x'}
    assert plain.post("/dicomweb/runs/rand/mr/studies", content=text, headers=kind).status_code == 409


def test_without_a_form_s_token_a_running_server_refuses(process) -> None:
    with httpx.Client(base_url=process.url, headers=HTML, verify=False) as client:
        assert (
            csrf(client)
            and client.post("/convert", data={"csrf": "x"}, files={"files": ("a.png", picture())}).status_code == 403
        )
