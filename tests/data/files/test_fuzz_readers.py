"""Some damaged files of every kind: a line or a result. `scripts/fuzz_readers.py` reads thousands of each."""

import numpy as np
import pytest

from fedjax_mri.data.files.read import readers

pytest.importorskip("SimpleITK")  # which writes some of the sound files
import fuzz_readers

COUNT = 30


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> list[fuzz_readers.Seed]:
    return fuzz_readers.corpus(tmp_path_factory.mktemp("corpus"))


def test_there_is_a_sound_file_of_every_kind(seeds) -> None:
    kinds = {seed.kind.split(",")[0].removesuffix("-2") for seed in seeds}
    assert kinds == {kind for reader in readers() for kind in reader.kinds}


def test_a_damaged_file_is_a_line_or_a_result(seeds) -> None:
    """Without another process, and without its limits; decoders of DICOM have one of their own."""
    led_to: dict[str, set[str]] = {}
    for seed in seeds:
        content, lines = seed.path.read_bytes(), led_to.setdefault(seed.kind, set())
        for number in range(COUNT):
            seed.path.write_bytes(fuzz_readers.mutated(content, np.random.default_rng(number)) if number else content)
            what, said = fuzz_readers.attempt(seed.given or seed.path, seed.conversion)
            assert what in ("result", "line", "unforeseen line") and "\n" not in said, (seed.kind, number, said)
            lines.add("result" if what == "result" else "line")
            assert number or what == ("line" if seed.kind == "TIFF, LZW" else "result"), (seed.kind, said)
        seed.path.write_bytes(content)
    assert all("line" in lines for lines in led_to.values())


def test_a_reader_that_fails_is_found(seeds, monkeypatch) -> None:
    """The test above could not pass if a reader let an exception through, or gave slices that are none."""
    (seed,) = (seed for seed in seeds if seed.kind == "PNG")
    monkeypatch.setattr(fuzz_readers.units, "to_model", lambda *_: np.full((1, 32, 32), np.nan))
    assert fuzz_readers.attempt(seed.path, seed.conversion) == ("traceback", "AssertionError: slices are not finite")
