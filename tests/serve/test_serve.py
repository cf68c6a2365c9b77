"""The page from upload to download, who may do what; nothing is lost, mixed up or decoded beyond its limits."""

import io
import json
import pathlib
import re
import shutil
import socket
import struct
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import examples
from served import Served, csrf, error, picture, send, unzipped, zipped
from test_explain import picture as disc
from test_explain import run as trained_classifier
from test_translate import CONFIG, saved

from fedjax_mri.cli import commands as cli
from fedjax_mri.convert import command as convert
from fedjax_mri.convert import region
from fedjax_mri.convert.translate import Translator
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import discover
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.localonly import LocalOnly
from fedjax_mri.run import config
from fedjax_mri.serve import access, command, converting, scheduler, store, training, uploads, views, worker
from fedjax_mri.serve import runs as known_runs
from fedjax_mri.serve.settings import Settings

TO_MR = "runs/rand to mr"
classifier = trained_classifier


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> pathlib.Path:
    """A folder with a run of random numbers that translates both ways."""
    home = tmp_path_factory.mktemp("serve") / "runs"
    home.mkdir()
    saved(home / "rand", replace(CONFIG, algorithm=FedAvg()))
    return home


@pytest.fixture
def served(runs, tmp_path) -> Served:
    return Served(runs, tmp_path / "home")


def translator(runs: pathlib.Path, to: str) -> Translator:
    """The one that the worker has, as each more would be compiled again."""
    return converting.load(runs / "rand", to, converting.last_change(runs / "rand"))


def by_the_command(
    runs: pathlib.Path, folder: pathlib.Path, files: dict[str, bytes], to: str, samples: int = 0
) -> dict[str, bytes]:
    """What `fedjax-mri convert` makes of files."""
    given, out = folder / "given", folder / "made"
    given.mkdir()
    for name, content in files.items():
        (given / name).write_bytes(content)
    job = convert.prepare(translator(runs, to), to, out, samples=samples, settings=convert.Settings(batch=2))
    convert.convert(job, discover.find([given])[0], print, lambda count: None)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(float)


def nifti(values: np.ndarray) -> bytes:
    return nibabel.Nifti1Image(values.astype(np.int16), np.diag([2.0, 2.0, 4.0, 1.0])).to_bytes()


def test_uploads_of_users_share_batches_and_each_gets_what_the_command_makes(runs, served, tmp_path) -> None:
    files = {f"{n}.png": picture(n / 7) for n in range(5)} | {"photo.jpg": picture(0.9, kind="JPEG")}
    expected = by_the_command(runs, tmp_path, files, "mr")
    first, second = served.client(), served.client()
    bad = {"broken.png": picture()[:60]}
    ours = send(first, dict(list(files.items())[:3]) | bad, run=TO_MR).headers["location"]
    theirs = send(second, {"some.zip": zipped({f"a/{name}": files[name] for name in list(files)[3:]})}, run=TO_MR)
    assert "data-refresh" in first.get(ours).text and first.get(f"{ours}/all.zip").status_code == 404
    served.work()
    page = first.get(ours).text
    assert "4 of 4 done, 1 refused" in page and "data-refresh" not in page
    assert str(served.home) not in page and "broken.png" in page
    found = unzipped(first.get(f"{ours}/all.zip").content) | unzipped(
        second.get(f"{theirs.headers['location']}/all.zip").content
    )
    names = {f"{n}_mr.png": f"{n}.png" for n in range(3)} | {"a/3_mr.png": "3.png", "a/4_mr.png": "4.png"}
    assert set(found) == {*names, "a/photo_mr.jpg"}
    for name, source in names.items():
        np.testing.assert_allclose(pixels(found[name]), pixels(expected[source]), atol=1)
    assert second.get(ours).status_code == second.get(f"{ours}/0/file/0").status_code == 404  # another user's
    assert not list((served.home / "queue").iterdir())


def test_a_volume_is_shown_in_three_planes_and_written_as_one(runs, served, tmp_path) -> None:
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (26, 20, 6)], indexing="ij")
    content = nifti(np.where(x**2 + y**2 < 0.7, 40 + 500 * (x > 0.3) * (z > 0), -1000))
    client = served.client()
    place = send(client, {"head.nii": content}, run=TO_MR).headers["location"]
    served.work()
    assert client.get(place).headers["location"] == f"{place}/0"
    page = client.get(f"{place}/0").text
    assert "Sagittal" in page and "26 x 20, 6 slices" in page
    made = nibabel.Nifti1Image.from_bytes(client.get(f"{place}/0/file/0").content)
    expected = nibabel.Nifti1Image.from_bytes(by_the_command(runs, tmp_path, {"head.nii": content}, "mr")["head.nii"])
    np.testing.assert_allclose(made.get_fdata(), expected.get_fdata(), atol=1e-4)
    np.testing.assert_array_equal(made.affine, expected.affine)
    for plane, size in (("axial", (26, 20)), ("coronal", (26, 12)), ("sagittal", (20, 12))):
        answer = client.get(f"{place}/0/slice/source-{plane}.png?at=3&source-level=40&source-width=80")
        assert Image.open(io.BytesIO(answer.content)).size == size and "private" in answer.headers["cache-control"]
    bone = pixels(client.get(f"{place}/0/slice/source-axial.png?at=5&source-level=40&source-width=80").content)
    assert set(np.unique(bone)) == {0, 128, 255}  # air, soft tissue in the middle of the window, bone beyond it
    assert client.get(f"{place}/0/slice/secret-axial.png").status_code == 404


def test_uncertainty_stands_beside_the_result_where_the_run_has_draws(tmp_path) -> None:
    """The draws are the models of two clients: the mean's file and the deviation's are those of the command."""
    runs = tmp_path / "runs"
    runs.mkdir()
    saved(runs / "rand", replace(CONFIG, algorithm=LocalOnly()))
    served = Served(runs, tmp_path / "home")
    client = served.client()
    place = send(client, {"a.png": picture()}, run=TO_MR, uncertainty="yes").headers["location"]
    served.work()
    page = client.get(f"{place}/0").text
    assert "Uncertainty (standard deviation)" in page and "Download a_mr_std.png" in page
    expected = by_the_command(runs, tmp_path, {"a.png": picture()}, "mr", samples=2)
    for place_of, name in enumerate(("a.png", "a_std.png")):
        found = pixels(client.get(f"{place}/0/file/{place_of}").content)
        assert found.std() > 0
        np.testing.assert_allclose(found, pixels(expected[name]), atol=found.max() / 200)


def test_slices_are_cut_with_the_head_up_and_in_the_patient_s_proportions() -> None:
    volume = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(views.cut(volume, "coronal", 1), volume[::-1, 1])
    np.testing.assert_array_equal(views.cut(volume, "sagittal", 3), volume[::-1, :, 3])
    assert Image.open(io.BytesIO(views.png(volume[0], (3.0, 1.0), 0, 24))).size == (4, 9)


def test_a_series_stays_one_and_a_bad_image_of_it_costs_one_line(served, tmp_path, monkeypatch) -> None:
    """Results are one new DICOM series; the bad image's neighbours are converted all the same."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    series = {}
    for number in range(3):
        one = examples.ct
        one.InstanceNumber, one.SOPInstanceUID = number, f"1.2.3.{number}"
        one.ImagePositionPatient = [0, 0, 5 * number]
        file = io.BytesIO()
        one.save_as(file, enforce_file_format=True)
        series[f"{number}.dcm"] = file.getvalue()
    client = served.client()
    whole = send(client, series, run=TO_MR).headers["location"]
    spoiled = send(client, series | {"1.dcm": series["1.dcm"][:-5000]}, run=TO_MR).headers["location"]
    served.work()
    assert "128 x 128, 3 slices" in client.get(f"{whole}/0").text
    assert len(unzipped(client.get(f"{whole}/all.zip").content)) == 3
    page = client.get(spoiled).text
    assert "3 of 3 done, 1 refused" in page and set(unzipped(client.get(f"{spoiled}/all.zip").content)) == {
        "0_mr.dcm",
        "2_mr.dcm",
    }
    assert not list((tmp_path / "temporary").iterdir())  # of uploads and downloads


def test_an_image_is_explained_in_words_with_maps_to_lay_over_it(classifier, tmp_path) -> None:
    served = Served(classifier, tmp_path / "home", Settings(batch=2, methods="gradinput"))
    disc(tmp_path / "left.png", -0.33)
    client = served.client()
    files = {"left.png": (tmp_path / "left.png").read_bytes(), "volume.nii": nifti(np.zeros((16, 16, 3)))}
    place = send(client, files, "explain", run="run").headers["location"]
    served.work()
    assert "3 slices: give PNG, JPEG or DICOM" in client.get(place).text
    page = client.get(f"{place}/0").text
    for text in ("Confidence 0.", "possible: ", "Gradient x input lights up", "No medical device"):
        assert text in page, text
    base, layer = (client.get(f"{place}/0/explanation/{name}.png").content for name in ("image", "gradinput"))
    assert Image.open(io.BytesIO(base)).size == Image.open(io.BytesIO(layer)).size == (16, 16)
    assert (
        Image.open(io.BytesIO(layer)).mode == "RGBA" and client.get(f"{place}/0/explanation/lrp.png").status_code == 404
    )
    report = client.get(f"{place}/0/explanation/page.html")
    assert "sandbox" in report.headers["content-security-policy"] and "data:image/png" in report.text
    assert client.get(f"{place}/0/explanation/..%2F..%2Frequest.json").status_code == 404


def test_a_part_of_a_result_is_explained_by_the_pixels_that_moved_it(runs, served) -> None:
    client = served.client()
    place = send(client, {"a.png": picture()}, run=TO_MR).headers["location"]
    served.work()
    fields = {"csrf": csrf(client), "left": "10", "top": "20", "width": "30", "height": "40", "method": "saliency"}
    assert "inside of the image" in error(client.post(f"{place}/0/region", data=fields | {"left": "90"}))
    why = client.post(f"{place}/0/region", data=fields).headers["location"]
    served.work()
    page = client.get(f"{why}/0").text
    assert "of what moved the mean of the box lies inside" in page and f"{place}/0/slice/source-axial.png" in page
    assert Image.open(io.BytesIO(client.get(f"{why}/0/explanation/map.png").content)).size == (30, 20)


def test_the_map_of_a_region_is_the_gradient_of_its_mean(runs) -> None:
    """Against differences of what the model makes when one pixel moves."""
    found = translator(runs, "mr")
    source = np.random.default_rng(0).uniform(-0.5, 0.5, (24, 24)).astype(np.float32)
    inside = np.zeros((24, 24), bool)
    inside[8:14, 9:15] = True
    shown = region.explain(found, "mr", source, inside, "saliency")
    for row, column in ((10, 10), (7, 9), (20, 3)):
        moved = np.stack([source, source])
        moved[:, row, column] += np.float32([0.02, -0.02])
        up, down = found.draw("mr", moved[..., None], None)[:, inside, 0].mean(1)
        np.testing.assert_allclose(shown[row, column], abs(up - down) / 0.04, rtol=0.1, atol=2e-4)
    with pytest.raises(UserError, match="holds no pixel"):
        region.explain(found, "mr", source, ~inside & inside, "saliency")


LARGE = picture() + bytes(3_000_000)
BOMB = zipped({"a.png": LARGE})


@pytest.mark.parametrize(
    ("files", "fields", "status", "said"),
    [
        ({}, {}, 400, "No file was sent"),
        ({"a.txt": b"words " * 100}, {}, 415, "a.txt: of no kind that can be read"),
        ({"a.mhd": b"ObjectType = Image\n" * 40}, {}, 415, "one of two files of a scan"),
        (
            {"a.png": picture()},
            {"run": "../../etc to mr"},
            422,
            "no run here can do this; reload the page (F5), and choose one",
        ),
        (
            {"a.png": picture()},
            {"run": "runs/rand to pet"},
            422,
            "no run here can do this; reload the page (F5), and choose one",
        ),
        ({"a.png": picture()}, {"ct_offset": "much"}, 422, "CT offset much: give a number"),
        ({"a.png": picture()}, {"ct_offset": "nan"}, 422, "CT offset nan: give a number"),
        ({"a.png": picture()}, {"csrf": "0" * 64}, 403, "reload the page (F5), fill in the form again"),
        ({"a.zip": BOMB}, {}, 413, "Unpacks to more than 2 MB"),
        ({"a.zip": BOMB[:-40]}, {}, 422, "a.zip: this zip is damaged"),
        ({"a.zip": zipped({"folder/": b""})}, {}, 415, "The zip holds no file"),
        ({"a.bin": bytes(1_100_000)}, {}, 413, "More than 1 MB"),
        ({f"{n}.png": picture() for n in range(9)}, {}, 413, "More than 8 files"),
        ({"a.zip": zipped({f"{n}.png": b"" for n in range(9)})}, {}, 413, "More than 8 files"),
    ],
)
def test_a_bad_upload_is_one_line_and_leaves_nothing(runs, tmp_path, files, fields, status, said) -> None:
    served = Served(runs, tmp_path / "home", Settings(files=8, upload_mb=1, unpacked_mb=2))
    answer = send(served.client(), files, **{"run": TO_MR} | fields)
    assert (answer.status_code, said in error(answer)) == (status, True), answer.text
    assert not list((served.home / "jobs").glob("*/*")) and "Traceback" not in answer.text


def test_damaged_pictures_are_refused_in_plain_words(served) -> None:
    """A picture that was cut, and a small one that claims 400 megapixels: no words of the decoder."""
    content = picture()
    claims = content[:16] + struct.pack(">II", 20_000, 20_000) + content[24:29]
    claims += struct.pack(">I", zlib.crc32(claims[12:29])) + content[33:]
    client = served.client()
    place = send(client, {"cut.png": content[:60], "bomb.png": claims}, run=TO_MR).headers["location"]
    served.work()
    page = client.get(place).text
    assert "damaged or cut short: write it again" in page and "more pixels than" in page
    assert not re.search("Error|truncated|bomb DOS", page)


def test_names_of_users_never_become_paths(served) -> None:
    client = served.client()
    names = {"../../../etc/evil.png": picture(0.1), "C:\\x\\evil.png": picture(0.2), "/abs/evil.png": picture(0.3)}
    place = send(client, {"a.zip": zipped(names), "..%2fb\r\n.png": picture()}, run=TO_MR).headers["location"]
    served.work()
    inside = {path.name for path in (served.home / "jobs").glob("*/*/in/*")}
    assert inside == {f"000{n}.png" for n in range(4)}
    made = unzipped(client.get(f"{place}/all.zip").content)
    assert len(made) == 4 and not any(".." in name.split("/") or name.startswith("/") for name in made)
    for path in ("/jobs/..%2f..%2fsecret", "/static/..%2fapp.py", "/static/../app.py", f"{place}/0/file/9"):
        assert client.get(path).status_code == 404


def test_a_full_queue_says_so_and_when_to_come_back(runs, tmp_path) -> None:
    served = Served(runs, tmp_path / "home", Settings(queue=2, batch=2))
    client = served.client()
    places = [send(client, {"a.png": picture()}, run=TO_MR).headers["location"] for _ in range(2)]
    answer = send(client, {"a.png": picture()}, run=TO_MR)
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0 and "queue is full" in error(answer)
    assert client.get("/health").json() == {"status": "ok", "worker": "ready", "queue": 2, "limit": 2}
    served.work()
    assert all(client.get(place).status_code == 303 for place in places)
    assert send(client, {"a.png": picture()}, run=TO_MR).status_code == 303


def test_users_take_turns(served) -> None:
    """One file of a user with one job comes before the last of a user with many."""
    many, one = served.client(), served.client()
    for _ in range(3):
        send(many, {f"{n}.png": picture() for n in range(3)}, run=TO_MR)
    send(one, {"mine.png": picture()}, run=TO_MR)
    job = store.of_marker(served.server.home, store.queued(served.home)[0])
    order = [str(work.item.names[0]) for work in scheduler.work_items(served.worker, scheduler.key(job))]
    assert len(order) == 10 and order.index("mine.png") < 2


def test_jobs_of_different_runs_take_turns(served, monkeypatch) -> None:
    """A short job to CT is done before a long one to MR that came first."""
    monkeypatch.setattr(scheduler, "TURN", 0.0)
    client = served.client()
    long = send(client, {f"{n}.png": picture() for n in range(9)}, run=TO_MR).headers["location"]
    short = send(client, {"a.png": picture()}, run="runs/rand to ct").headers["location"]
    worker.step(served.worker), worker.step(served.worker)
    assert client.get(short).status_code == 303 and "1 of 9 done" in client.get(long).text
    served.work()
    assert "9 of 9 done" in client.get(long).text


def test_a_file_that_ends_the_worker_twice_is_refused_and_the_others_are_not(served) -> None:
    client = served.client()
    place = send(client, {"a.png": picture(), "b.png": picture()}, run=TO_MR).headers["location"]
    job = store.of_marker(served.server.home, store.queued(served.home)[0])
    held = list(scheduler.work_items(served.worker, scheduler.key(job)))
    for some in (held, held[1:]):  # in a batch, then alone
        scheduler.hold(served.worker, some)
        scheduler.count_crash(served.server.home)
    served.work()
    page = client.get(place).text
    assert "ended the worker twice" in page and "1 refused" in page


def test_old_jobs_are_deleted_with_all_their_files_and_unfinished_ones_are_not(served) -> None:
    client = served.client()
    done, waiting = (send(client, {"a.png": picture()}, run=TO_MR).headers["location"], None)
    served.work()
    waiting = send(client, {"a.png": picture()}, run=TO_MR).headers["location"]
    store.expire(served.server.home, 1.0)
    assert client.get(done).status_code == 303
    store.expire(served.server.home, 0.0)
    assert client.get(done).status_code == 404 and client.get(waiting).status_code == 200
    assert len(list((served.home / "jobs").glob("*/*"))) == 1
    assert client.post(f"{waiting}/delete", data={"csrf": csrf(client)}).status_code == 303
    served.work()  # of a job that is gone
    assert not list((served.home / "jobs").glob("*/*/*"))


def test_a_job_that_is_deleted_while_it_is_worked_on_costs_no_other(served) -> None:
    client = served.client()
    gone, kept = (send(client, {"a.png": picture()}, run=TO_MR).headers["location"] for _ in range(2))
    job = store.of_marker(served.server.home, store.queued(served.home)[0])
    held = list(scheduler.work_items(served.worker, scheduler.key(job)))
    store.delete(next(work.job.folder for work in held if work.job.id in gone))
    converting.convert(served.worker, job.request, iter(held))
    assert client.get(kept).status_code == 303 and client.get(gone).status_code == 404
    assert not (served.home / "traceback.txt").exists()


def test_jobs_go_on_after_a_restart_with_what_was_half_done(runs, served) -> None:
    client = served.client()
    place = send(client, {f"{n}.png": picture(n / 4) for n in range(4)}, run=TO_MR).headers["location"]
    job = store.of_marker(served.server.home, store.queued(served.home)[0])
    assert len(list(scheduler.plan(job))) == 4
    store.finish_item(job, 2, {"state": "done", "title": "as it was", "inputs": [2], "results": ["2_mr.png"]})
    (served.home / "queue" / store.queued(served.home)[0]).unlink()  # killed between request and marker
    after = Served(runs, served.home)
    after.work()
    again = after.client(cookies=client.cookies)
    page = again.get(place).text
    assert "4 of 4 done." in page and "as it was" in page
    (job.folder / "end.json").unlink()  # killed before the end was written
    job.marker.touch()
    after.work()
    assert not store.queued(served.home) and "4 of 4 done." in again.get(place).text


def test_a_page_of_another_site_or_name_gets_nothing(served) -> None:
    client = served.client()
    token = csrf(client)
    evil = client.post("/convert", data={"csrf": token}, headers={"origin": "https://evil.example"})
    assert evil.status_code == 403 and "another site" in error(evil)
    rebound = client.get("/convert", headers={"host": "evil.example:8765"})
    assert rebound.status_code == 403 and "localhost alone" in error(rebound)
    answer = client.get("/convert")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script>|<style|style=|onclick=", answer.text)
    other = served.client()
    assert other.post("/logout", data={"csrf": token}).status_code == 403  # a token of another session


def test_off_the_loopback_there_is_a_token_and_guesses_are_limited(runs, tmp_path) -> None:
    served = Served(runs, tmp_path / "home", host="0.0.0.0", token=True)
    client = served.client()
    assert client.get("/convert").headers["location"] == "/login" and client.get("/health").status_code == 200
    assert client.get("/login").status_code == client.get("/static/page.css").status_code == 200
    assert client.post("/convert", data={}).status_code == 403
    assert error(client.post("/login", data={"password": "guess"})) == "This token is wrong."
    good = client.post("/login", data={"password": served.server.access.token})
    assert good.status_code == 303 and "httponly; samesite=strict" in good.headers["set-cookie"]
    assert client.get("/convert").status_code == 200
    client.cookies.set("session", "x" + client.cookies["session"][1:])
    assert client.get("/convert").status_code == 303
    for _ in range(access.FAILURES):
        answer = client.post("/login", data={"password": "guess"})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) <= 61
    kept = [served.home / name for name in ("token", "secret", *command.FOLDERS)]
    assert {path.stat().st_mode & 0o77 for path in kept} == {0}


def test_users_log_in_by_password_and_a_new_password_ends_their_sessions(runs, tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "users.json"

    def add(name: str, password: str) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))
        return cli.main(["serve", "--users", str(file), "--add-user", name])

    assert add("ann", "short") == 1 and "8 characters" in capsys.readouterr().err
    assert add("ann", "correct horse") == add("bob", "battery staple") == 0
    assert "correct" not in file.read_text() and "$argon2id$" in file.read_text()
    served = Served(runs, tmp_path / "home", users=file, certificate=tmp_path)
    ann, bob = served.client(), served.client()
    assert error(ann.post("/login", data={"name": "ann", "password": "battery staple"})) == "Name or password is wrong."
    for one, words in ((ann, ("ann", "correct horse")), (bob, ("bob", "battery staple"))):
        answer = one.post("/login", data=dict(zip(("name", "password"), words)))
        assert answer.headers["set-cookie"].startswith("__Host-session=") and "secure" in answer.headers["set-cookie"]
    place = send(ann, {"a.png": picture()}, run=TO_MR).headers["location"]
    assert ann.get(place).status_code == 200 and bob.get(place).status_code == 404
    assert add("ann", "another one") == 0
    assert ann.get(place).headers["location"] == "/login" and bob.get("/convert").status_code == 200
    assert bob.post("/logout", data={"csrf": csrf(bob)}).headers["location"] == "/login"
    assert bob.get("/convert").status_code == 303


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "others may reach it there, so give --token"),
        (["--token", "--users", "{runs}/none.json"], "--token and --users: give one of them"),
        (["--users", "{runs}/none.json"], "not there; add --add-user NAME"),
        (["--certificate", "{runs}/none.pem"], "--certificate and --key: give both"),
        (["--config", "{runs}/none.py"], "not there; check the path"),
        (["--config", "{runs}/broken.py"], "broken.py: cannot be read as a config: ValueError: of mine"),
        (["--queue", "0"], "--queue 0: must be a whole number from 1 to 1000000"),
        (["--queue", "2000000000"], "--queue 2000000000: must be a whole number from 1 to 1000000"),
        (["--keep-hours", "0"], "--keep-hours 0: must be above 0, and 1000000 at most"),
        (["--methods", "foo"], "--methods=foo: give one of gradcam"),
        (["--port", "99999"], "--port 99999: give a port from 1 to 65535"),
        (["--data", "{runs}", "--data", "{runs}/../runs"], "--data: two are called runs"),
        (["--quueue", "4"], "quueue"),
    ],
)
def test_bad_flags_are_one_line(runs, tmp_path, capsys, words, said) -> None:
    (runs / "broken.py").write_text("raise ValueError('of mine')")
    given = [word.format(runs=runs) for word in words]
    assert cli.main(["serve", str(runs), "--out", str(tmp_path / "home"), *given]) == 1
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1


def test_what_holds_no_run_is_refused_and_no_folder_of_the_user_s_is_closed_to_others(tmp_path, capsys) -> None:
    """A file, an empty folder and a folder of other things are told what a run folder is."""
    home, empty, file = tmp_path / "home", tmp_path / "empty", tmp_path / "file"
    file.touch()
    (empty / "other").mkdir(parents=True)
    home.mkdir(mode=0o755)
    for path, said in ((file, "is a file"), (empty, "there is no run in it"), (empty / "other", "no run in it")):
        assert cli.main(["serve", str(path), "--out", str(home)]) == 1
        printed = capsys.readouterr().err
        assert f"{path}: " in printed and said in printed and printed.count("\n") == 1
        assert "give a run folder, which `fedjax-mri train` writes" in printed
    command.build(command.Choices([], home), Settings())
    assert home.stat().st_mode & 0o777 == 0o755 and (home / "jobs").stat().st_mode & 0o777 == 0o700


def test_the_help_lists_the_limits(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    words = capsys.readouterr().out
    for name, value in config.flat(Settings()).items():
        flag = name.replace("_", "-")
        assert name == "limits" or re.search(
            rf"--{re.escape(flag)} .*\({re.escape(f'{value:g}' if name == 'keep_hours' else str(value))}\)", words
        ), name


def test_runs_are_listed_compared_and_reported(classifier, tmp_path) -> None:
    served = Served(classifier.parent, tmp_path / "home")
    name = f"{classifier.parent.name}/run"
    shutil.copytree(classifier, served.home / "runs" / "private")
    with (served.home / "runs" / "private" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "privacy/epsilon": 2.5, "train/nll": 1.0}\n')
    client = served.client()
    page = client.get("/runs").text
    assert name in page and "2 of 2" in page and ">2.500<" in page and f"/explain?run={name}" in page
    both = client.get("/runs/compare", params={"run": [name, "runs/private"]})
    assert both.status_code == 200 and "data:image/svg+xml;base64," in both.text
    assert client.get("/runs/compare").status_code == 400
    assert client.get("/runs/compare?run=../etc").status_code == 404
    assert client.get(f"/runs/report?run={name}").status_code == 404
    (classifier / "report.html").write_text("<p>figures</p>")
    report = client.get(f"/runs/report?run={name}")
    assert report.text == "<p>figures</p>" and "sandbox" in report.headers["content-security-policy"]


def test_configs_are_read_one_at_a_time_and_a_bad_run_hides_no_other(tmp_path, monkeypatch) -> None:
    """To read one imports modules, which fails when several threads do it at once."""
    reading: list[pathlib.Path] = []
    at_once: list[int] = []

    def read(run: pathlib.Path) -> None:
        reading.append(run)
        at_once.append(len(reading))
        time.sleep(0.01)
        reading.remove(run)
        raise RuntimeError("of a user's module")

    monkeypatch.setattr(known_runs.restore, "read_model", read)
    folders = [tmp_path / str(number) for number in range(8)]
    for folder in folders:
        (folder / "checkpoints" / "1").mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(known_runs.ability, folders)) == {known_runs.Ability()}
    assert at_once == [1] * 8


def test_a_training_is_started_on_what_the_owner_allows_watched_and_stopped(runs, tmp_path, monkeypatch) -> None:
    """The process is one that waits; the command line is what the page may choose, and no more."""
    config = tmp_path / "mine.py"
    config.write_text(
        "from fedjax_mri.data.folder import Folder\nfrom fedjax_mri.run.config import Experiment\n"
        "configs = {'small': Experiment(Folder('x'), name='small'), 'large': Experiment(Folder('x'), name='large')}\n"
    )
    (tmp_path / "images").mkdir()
    served = Served(runs, tmp_path / "home", configs=[config], data=[tmp_path / "images"])
    client, other = served.client(), served.client()
    waits = tmp_path / "python"
    stopped = "small: stopped after round 1, saved; the same command goes on from there"
    waits.write_text(f'#!/bin/sh\ntrap "echo \\"{stopped}\\"; exit" TERM\necho "$@"\nsleep 60 &\nwait\n')
    waits.chmod(0o755)
    monkeypatch.setattr(training.sys, "executable", str(waits))
    page = client.get("/train").text
    assert "mine: small" in page and "mine: large" in page and ">images<" in page
    fields = {"csrf": csrf(client, "/train"), "config": "mine: small", "data": "images", "rounds": "3"}
    assert client.post("/train", data=fields | {"data": "/etc"}).status_code == 422
    assert client.post("/train", data=fields | {"rounds": "-1"}).status_code == 422
    place = client.post("/train", data=fields).headers["location"]
    (one,) = training.every(served.home)
    try:
        assert training.is_running(one) and client.post("/train", data=fields).status_code == 503
        log = served.home / "trainings" / f"{one.name}.log"
        while not log.read_text().endswith("\n"):
            pass
        assert f"--only small --data.root {tmp_path / 'images'} --rounds 3" in log.read_text()
        page = client.get(place).text
        assert "data-refresh" in page and "Stop, and keep" in page and str(served.home) not in page
        assert "Stop, and keep" not in other.get(place).text
        assert other.post(f"{place}/stop", data={"csrf": csrf(other, "/convert")}).status_code == 403
    finally:
        client.post(f"{place}/stop", data={"csrf": fields["csrf"]})
        while training.is_running(one):
            pass
    page = client.get(place).text
    assert 'class="tag ended"' in page and "Stop, and keep" not in page
    for last in ("round 1/3: loss 1.2", "error: no images there"):  # the first as of one that was killed
        log.write_text(f"{log.read_text()}{last}\n")
        assert all('class="tag failed"' in client.get(path).text for path in (place, "/train"))


def test_trainings_are_listed_with_the_newest_first(tmp_path) -> None:
    (tmp_path / "trainings").mkdir()
    for name, started in (("zebra-1", 1.0), ("ant-2", 2.0)):
        one = training.Training(name, "title", "user", "", 1, started)
        (tmp_path / "trainings" / f"{name}.json").write_text(json.dumps(one._asdict()))
    assert [one.name for one in training.every(tmp_path)] == ["ant-2", "zebra-1"]


def test_a_run_that_is_damaged_fails_its_jobs_in_one_line(runs, tmp_path) -> None:
    copy = shutil.copytree(runs, tmp_path / "runs")
    served = Served(copy, tmp_path / "home")
    client = served.client()
    place = send(client, {"a.png": picture()}, run=TO_MR).headers["location"]
    shutil.rmtree(copy / "rand")
    served.work()
    page = client.get(place).text
    assert "This job has failed" in page and "runs/rand: this run is not there any more" in page


@pytest.mark.parametrize("body", [b"", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n", b"--x\r\nbad"])
def test_damaged_bodies_are_one_line(served, body) -> None:
    client = served.client()
    csrf(client)
    answer = client.post("/convert", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code in (400, 403) and error(answer)
    assert client.post("/convert", content=b"x", headers={"content-type": "text/plain"}).status_code == 415


def test_a_zip_whose_header_lies_is_unpacked_no_further_than_allowed(tmp_path) -> None:
    """The directory claims 10 bytes, and 3 MB follow; another is honest. No more than 1 MB and a bit is written."""
    lying = BOMB.replace(struct.pack("<I", len(LARGE)), struct.pack("<I", 10))
    for content in (lying, BOMB):
        with pytest.raises(uploads.HTTPException):
            uploads.take([uploads.Sent("a.zip", io.BytesIO(content))], tmp_path, Settings(unpacked_mb=1))
        assert sum(one.stat().st_size for one in tmp_path.iterdir()) < 2_000_000


def test_a_second_server_on_the_same_folder_is_refused(tmp_path) -> None:
    with (
        command.locked(tmp_path / "home"),
        pytest.raises(UserError, match="another server uses this folder"),
        command.locked(tmp_path / "home"),
    ):
        pass


def test_pages_for_programs_answer_in_json(served) -> None:
    client = served.client()
    assert client.get("/jobs/none", headers={"accept": "*/*"}).json() == {
        "error": "No such job: it was deleted, or is not yours."
    }


def test_addresses_that_are_no_page_and_large_forms_are_one_line(runs, served, tmp_path) -> None:
    client = served.client()
    for answer, status, said in (
        (client.get("/nowhere"), 404, "There is no such page: check the address"),
        (client.get("/jobs/none/delete"), 405, "use the links and buttons of a page"),
        (client.post("/logout", data={"csrf": "x" * 200_000}), 413, "more than 100 kB"),
    ):
        assert (answer.status_code, said in error(answer)) == (status, True), answer.text
    closed = Served(runs, tmp_path / "closed", host="0.0.0.0", token=True).client()
    answer = closed.post("/login", data={"password": "x" * 20_000})
    assert answer.status_code == 413 and "more than 10 kB" in error(answer)


def test_a_port_in_use_is_one_line(runs, tmp_path, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", str(runs), "--out", str(tmp_path / "home"), "--port", port]) == 1
    assert f"--port {port}: cannot listen there" in capsys.readouterr().err


def test_what_is_not_of_a_kind_is_not_found_and_foreign_files_stop_nothing(classifier, tmp_path) -> None:
    served = Served(classifier, tmp_path / "home", Settings(batch=2, methods="gradinput"))
    disc(tmp_path / "left.png", -0.33)
    (served.home / "queue").mkdir(exist_ok=True)
    (served.home / "queue" / ".DS_Store").touch()
    client = served.client()
    place = send(client, {"left.png": (tmp_path / "left.png").read_bytes()}, "explain", run="run").headers["location"]
    served.work()
    assert client.get(f"{place}/0").status_code == 200 and not store.queued(served.home)
    assert client.get(f"{place}/0/slice/source-axial.png").status_code == 404
    box = {"csrf": csrf(client, "/explain"), "left": "1", "top": "1", "width": "9", "height": "9", "method": "saliency"}
    assert client.post(f"{place}/0/region", data=box).status_code == 404
    strange = {"cookie": "session=YQ==.9999999999999.x.\u00e9".encode("latin-1")}
    assert client.get("/convert", headers=strange).status_code < 500
