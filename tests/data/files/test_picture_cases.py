"""The difficult pictures of ../shared/cases: each is seen as the plain one in training and in use, or one line."""

import pathlib

import numpy as np
import pytest
from fakes import SIZE, run, translator
from PIL import Image

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import images
from fedjax_mri.data.files.read import read
from fedjax_mri.data.files.scan import Limits

PLAIN = {  # -> grey levels by which it may differ
    **dict.fromkeys(("p02_16bit.png", "p03_LA.png", "p04_rgba_white_under_alpha.png"), 0.51),
    "p02b_12in16.png": 1.0,  # its 4080 of 4095
    **dict.fromkeys(("p05_rgb.png", "p06_palette.png", "p06b_palette_trns.png", "p06c_inverted_palette.png"), 0.51),
    **dict.fromkeys(("p11_png_named.jpg", "p13_bmp.bmp", "p13_tif.tif", "p17_gamma.png", "p19_interlaced.png"), 0.51),
    **dict.fromkeys(("p08_grey.jpg", "p08b_rgb.jpg", "p08c_progressive.JPG", "p09_cmyk.jpg", "p10_exif6.jpg"), 12),
    **dict.fromkeys(("p11b_jpg_named.png", "p12b_trailing.jpg", "p14b_mpo.jpg"), 45),
}
REFUSED = {
    "p12_cut.jpg": "cut short",
    "p12c_cut.png": "cut short",
    "p12d_empty.png": "empty file",
    "p13_gif.gif": "of no kind that can be read",
    "p13_jp2.jp2": "of no kind that can be read",
    "p13_webp.webp": "of no kind that can be read",
    "p13b_webp_named.png": "of no kind that can be read",
    "p14_apng.png": "2 frames: give one picture a file",
    "p18_tiny.png": "7 x 7 pixels: give 8 x 8 or more",
}


@pytest.fixture(scope="module")
def pictures(cases) -> pathlib.Path:
    return cases("p_picture") / "pic"


def levels(path: pathlib.Path) -> np.ndarray:
    """Grey levels of 0 to 255 as use sees them."""
    scan = read(path, "mr", Limits())
    assert scan.units == "display" and scan.voxels.shape[0] == 1
    return scan.voxels[0] * 255


@pytest.mark.parametrize("name", PLAIN)
def test_a_picture_is_seen_as_the_plain_one_in_training_and_in_use(pictures, name) -> None:
    np.testing.assert_allclose(levels(pictures / name), levels(pictures / "p01_L.png"), atol=PLAIN[name])
    trained, plain = (images.decode_picture(str(pictures / one), 128, 1) for one in (name, "p01_L.png"))
    difference = trained.pixels.astype(float) - plain.pixels
    assert np.abs(difference).max() <= PLAIN[name] + 0.5
    used = levels(pictures / name)
    np.testing.assert_allclose(trained.pixels[:, 8:120, 0], used, atol=0.51)  # 128 x 112 in a square of 128


def test_one_bit_and_inverted_film_are_as_they_are(pictures) -> None:
    plain = levels(pictures / "p01_L.png")
    np.testing.assert_array_equal(levels(pictures / "p07_1bit.png"), 255 * (plain > 60))
    np.testing.assert_allclose(levels(pictures / "p20_inverted_film.png"), 255 - plain, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_one_line(pictures, name) -> None:
    with pytest.raises(UserError, match=REFUSED[name]):
        read(pictures / name, "mr", Limits())
    if name != "p18_tiny.png":
        assert isinstance(images.decode_picture(str(pictures / name), 32, 1), str)  # set aside in training


def test_what_is_doubtful_is_said(pictures, tmp_path) -> None:
    notes = {path.name: "".join(read(path, "mr", Limits()).notes) for path in map(pictures.joinpath, PLAIN)}
    assert notes.pop("p02b_12in16.png") == "its values need 12 of 16 bits: 4095 counts as white"
    assert notes.pop("p14b_mpo.jpg") == "the first of its pictures counts"
    assert not any(notes.values())
    dark = np.zeros((9, 9), np.uint8)
    dark[4] = 20
    Image.fromarray(dark).save(tmp_path / "dark.png")
    (said,) = read(tmp_path / "dark.png", "mr", Limits()).notes
    assert said == "its brightest value is less than an eighth of white, which is 255"


def test_results_keep_kind_depth_and_size_and_are_upright(pictures, tmp_path) -> None:
    fake = translator(None)._replace(draw=lambda to, x, sample: x)
    (converted, refused), _ = run([pictures], tmp_path, "ct", fake=fake)
    assert (converted, refused) == (len(PLAIN) + 3, 6)  # p01, p07 and p20; of p13 three are left out by their names
    for path in tmp_path.iterdir():
        made, source = Image.open(path), Image.open(pictures / path.name)
        assert made.size == (112, 128) and made.format == source.format.replace("MPO", "JPEG"), path.name
        assert made.mode == ("I;16" if "p02" in path.name else "L") and not made.getexif().get(0x112)
    middle = (slice(20, 108), slice(20, 92))
    upright, plain = (np.asarray(Image.open(tmp_path / name), float)[middle] for name in ("p10_exif6.jpg", "p01_L.png"))
    assert np.abs(upright - plain).mean() < 3 < np.abs(upright[::-1] - plain).mean()
    deep = np.asarray(Image.open(tmp_path / "p02b_12in16.png"))
    assert 3000 < deep.max() <= 4095  # the depth of the source


def test_grey_and_alpha_of_16_bits_keep_their_depth(tmp_path) -> None:
    """Pillow reads such a PNG at 8 bits; it writes none, so that one is made of bytes."""
    grey = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    alpha = np.where(np.arange(SIZE) < 3, 0, 65535).astype(np.uint16) + np.zeros_like(grey)
    pairs = np.stack([grey, alpha], -1).astype(">u2")
    Image.fromarray(pairs.view(np.uint8).reshape(SIZE, SIZE, 4), "RGBA").save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[24:26] = b"\x10\x04"
    content[29:33] = __import__("zlib").crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    found = read(tmp_path / "a.png", "mr", Limits()).voxels[0] * 65535
    np.testing.assert_allclose(found, np.where(alpha > 0, grey, 0), atol=0.01)
    run([tmp_path / "a.png"], tmp_path / "out", "ct", fake=translator(None)._replace(draw=lambda to, x, sample: x))
    assert Image.open(tmp_path / "out" / "a.png").mode == "I;16"


def test_tiff_of_other_meanings_is_refused(tmp_path) -> None:
    floats = Image.fromarray(np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10))
    floats.save(tmp_path / "float.tif")
    Image.new("L", (10, 10)).save(tmp_path / "packed.tif", compression="tiff_lzw")
    Image.new("L", (10, 10)).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("L", (10, 10))])
    for name, said in (("float", "no grey levels"), ("packed", "a compressed TIFF"), ("pages", "2 frames")):
        with pytest.raises(UserError, match=said):
            read(tmp_path / f"{name}.tif", "mr", Limits())
