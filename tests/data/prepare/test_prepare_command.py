"""`fedjax-mri prepare` as a user meets it."""

import json

import nibabel
import numpy as np
from PIL import Image

from fedjax_mri.cli import commands


def files(folder) -> None:
    y, x = np.mgrid[:32, :32] - 15.5
    head = np.where(x**2 + y**2 < 150, 1.0, 0.0) * (1 + 0.01 * x)
    for name in ("tumour/a", "none/b"):
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray((200 * head).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "mr").mkdir()
    volume = np.stack([300 * head] * 4, -1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "mr" / "p.nii.gz")
    (folder / "mr" / "bad.png").write_bytes(b"\x89PNG nothing more")


def test_folders_are_kept_and_what_was_done_is_on_record(tmp_path, capsys) -> None:
    there, out = tmp_path / "in", tmp_path / "out"
    files(there)
    given = ["prepare", str(there), str(out), "--steps", "bias,crop:1mm,rescale,size:16"]
    assert commands.main(given) == 1  # for the bad one
    said = capsys.readouterr()
    assert "3 prepared, 1 refused" in said.out and "bad.png" in said.out + said.err
    assert np.asarray(Image.open(out / "tumour" / "a.png")).shape == (16, 16)
    made = nibabel.load(out / "mr" / "p.nii.gz")
    assert made.shape == (16, 16, 4) and 3.0 < made.header.get_zooms()[0] < 4.0 and made.header.get_zooms()[2] == 3.0
    assert made.get_fdata().max() <= 1
    record = json.loads((out / "prepared.json").read_text())["files"]
    assert set(record) == {"tumour/a.png", "none/b.png", "mr/p.nii.gz"}
    assert record["mr/p.nii.gz"]["steps"] == ["bias", "crop:1mm", "rescale", "size:16"]
    assert len(*record["tumour/a.png"]["sources"].values()) == 64
    taken = [name for name, entry in record.items() if any("taken for MR" in note for note in entry["notes"])]
    assert set(taken) == {"none/b.png", "tumour/a.png"}
    assert (out / "prepared.html").read_text().count("data:image/png") == 6

    assert commands.main(given) == 1 and "give --force" in "".join(capsys.readouterr())
    assert json.loads((out / "prepared.json").read_text())["files"] == record


def test_results_do_not_lie_in_what_is_read(tmp_path, capsys) -> None:
    files(tmp_path / "in")
    assert commands.main(["prepare", str(tmp_path / "in"), str(tmp_path / "in" / "out"), "--steps", "bias"]) == 1
    assert "give a folder elsewhere" in capsys.readouterr().err


def test_two_files_of_one_result_and_scans_without_a_partner_are_said(tmp_path, capsys) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(np.full((32, 32), 90, np.uint8)).save(tmp_path / "in" / name)
    out = tmp_path / "out"
    assert commands.main(["prepare", str(tmp_path / "in"), str(out), "--steps", "register", "--force"]) == 1
    assert "another file gave" in "".join(capsys.readouterr())
    (entry,) = json.loads((out / "prepared.json").read_text())["files"].values()
    assert any(note.startswith("register changed nothing") for note in entry["notes"])


def test_pairs_are_told_by_their_whole_name_and_each_result_has_its_own_source(tmp_path) -> None:
    """A name may hold dots, and the folder of the MR may come first, as `MR` does before `ct`."""
    brightness = {"MR/s.02.png": 200, "ct/s.01.png": 60, "ct/s.02.png": 120}
    for name, value in brightness.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.pad(np.full((24, 24), value, np.uint8), 4)).save(tmp_path / "in" / name)
    out = tmp_path / "out"
    assert commands.main(["prepare", str(tmp_path / "in"), str(out), "--steps", "register"]) == 0
    record = json.loads((out / "prepared.json").read_text())["files"]
    assert {name: [*entry["sources"]] for name, entry in record.items()} == {
        name: [str(tmp_path / "in" / name)] for name in brightness
    }
    for name, value in brightness.items():
        made = np.asarray(Image.open(out / name), float)
        assert abs(made.max() / 65535 * 255 - value) < 2
