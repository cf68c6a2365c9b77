"""Units are decided once: which CT counts as HU, and how an MR of any scale is seen."""

import numpy as np
import pytest
from pydicom import examples
from pydicom.pixels import apply_modality_lut

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import units
from fedjax_mri.data.files.scan import Scan
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.gallery import patients
from fedjax_mri.data.phantom.scanner import show_mr

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def heads() -> dict[str, np.ndarray]:
    """CT and MR of two synthetic patients, [2, 64, 64], by the program that tests/data/test_phantom.py compiles too."""
    found = patients(Phantom(clients=12, test_clients=4, test_patients=6), 2, 0)
    return {name: np.array(found[name][:, 0, ..., 0]) for name in ("ct", "mr")}


@pytest.fixture(scope="module")
def cts(heads) -> dict[str, np.ndarray]:
    """CT in HU: a real one, the phantom's, and what is made of such before it is given away."""
    real = np.asarray(apply_modality_lut(examples.ct.pixel_array, examples.ct), np.float32)[None]
    head = heads["ct"]
    inside = np.where((head > 0) & (head < 100), head, 0)
    whole = {"real": real, "phantom": head, "field of view": np.where(RNG.random(head.shape) < 0.2, -2000, head)}
    faceless = head.copy()
    faceless[:, :25] = -1024
    zeroed = head.copy()
    zeroed[:, :25] = 0
    cropped = head[:, 20:44, 20:44]
    limits = ((-100, 300), (-40, 100), (0, 80), (0, 40), (-450, 1050), (0, 1500))
    windows = {f"{low} to {high}": np.clip(head, low, high) for low, high in limits}
    return {
        **whole,
        **windows,
        "bone alone": np.where(head > 300, head, 0),
        "faceless": faceless,
        "zeroed face": zeroed,
        "stripped": inside,
        "stripped on air": np.where(inside > 0, inside, -1000),
        "cropped": cropped,
        "air": np.full((1, 9, 9), -1000.0),
    }


def unstated(values: np.ndarray, units: str = "unstated") -> Scan:
    return Scan(np.asarray(values, np.float32), units, lambda *_: [])  # type: ignore[arg-type]


def test_no_ct_in_hu_is_refused_whatever_was_cut_out_of_it(cts) -> None:
    for name, values in cts.items():
        found = units.resolve_units(unstated(values))
        assert found.units == "hu", name
        np.testing.assert_array_equal(found.voxels, values.astype(np.float32), err_msg=name)
        airless = values.min() > -500 and np.ptp(values) > 0
        assert ("hold no air" in "".join(found.notes)) == airless, name


@pytest.mark.parametrize("name", ["real", "phantom", "faceless", "stripped on air", "field of view"])
@pytest.mark.parametrize("offset", [1024, 1000])
def test_a_ct_with_an_offset_is_refused_unless_it_is_given(cts, name, offset) -> None:
    shifted = unstated(np.where(cts[name] < -1024, cts[name], np.maximum(cts[name] + offset, 0)))
    with pytest.raises(UserError, match=r"HU with an offset: give --ct-offset .* -1024"):
        units.resolve_units(shifted)
    back = units.resolve_units(shifted, -float(offset))
    inside = cts[name] > -900
    np.testing.assert_allclose(back.voxels[inside], cts[name][inside], atol=1e-3)


def test_other_scales_are_no_hu(cts) -> None:
    for values in ((cts["phantom"] + 1000) / 4000, cts["phantom"] / 1000, (cts["real"] - 20) / cts["real"].std()):
        with pytest.raises(UserError, match="are not HU: give the scanner's own HU, or --ct-offset"):
            units.resolve_units(unstated(values))
    with pytest.raises(UserError, match="most of them denser than bone"):
        units.resolve_units(unstated(cts["phantom"] + 32768))
    assert units.resolve_units(unstated(cts["phantom"] / 1000), 0.0).units == "hu"  # the user says so


def test_what_a_file_states_is_not_questioned(cts) -> None:
    found = units.resolve_units(unstated(cts["real"] + 1024, "hu"))
    np.testing.assert_array_equal(found.voxels, cts["real"] + 1024)


def test_nan_around_a_head_is_background_and_in_it_is_refused(heads) -> None:
    ct, mr = heads["ct"].copy(), heads["mr"] - 2
    ct[ct < -900] = mr[heads["ct"] < -900] = np.nan
    count = np.isnan(ct).sum()
    found = units.resolve_units(unstated(ct))
    assert set(found.voxels[np.isnan(ct)]) == {units.AIR}
    assert found.notes[0] == f"{count} of {ct.size} voxels, all around the head, are NaN and count as background"
    other = units.resolve_units(unstated(mr, "arbitrary"))
    assert set(other.voxels[np.isnan(mr)]) == {np.nanmin(mr)}
    with pytest.raises(UserError, match=r"a value of -1e\+30, which no image has: replace it"):
        units.resolve_units(unstated(np.where(heads["mr"] == heads["mr"].max(), -1e30, heads["mr"]), "arbitrary"))
    ct[1, 32, 32] = np.nan
    for bad in (ct, np.full((2, 9, 9), np.nan), np.full((2, 9, 9), np.inf)):
        with pytest.raises(UserError, match="voxels are NaN or infinite: replace them"):
            units.resolve_units(unstated(bad))


def model(values: np.ndarray) -> np.ndarray:
    return units.to_model(unstated(values, "arbitrary"), "mr", None, values.shape[1:])


def test_an_mr_slice_is_shown_as_the_phantom_s_alone_and_in_a_volume(heads) -> None:
    wanted = np.stack([np.asarray(show_mr(image)) for image in heads["mr"]])
    np.testing.assert_allclose(model(700 * heads["mr"]), wanted, atol=1e-5)
    for place in range(2):
        np.testing.assert_allclose(model(heads["mr"][place : place + 1])[0], wanted[place], atol=1e-5)


def test_a_slice_of_noise_stays_dark_in_a_volume(heads) -> None:
    noise = np.abs(RNG.normal(0, 0.02, (1, 64, 64))).astype(np.float32)
    assert model(np.concatenate([heads["mr"], noise]))[-1].mean() < 0.1 < model(noise).mean()
    assert not model(np.zeros((2, 64, 64), np.float32)).any()


def test_an_mr_of_any_scale_is_seen_alike(heads) -> None:
    magnitude = np.where(heads["ct"] < -500, 0, 1 + 500 * heads["mr"]).astype(np.float32)
    wanted = model(magnitude)
    head = magnitude > 0
    masked = np.where(head, (magnitude - magnitude[head].mean()) / magnitude[head].std(), 0)
    scaled = {
        "z-scores": (magnitude - magnitude.mean()) / magnitude.std(),
        "-1 to 1": 2 * magnitude / magnitude.max() - 1,
        "z-scores of the head": masked,
        "marked ground": np.where(head, magnitude, -32768),
        "ringing": magnitude - 0.002 * magnitude.max() * RNG.random(magnitude.shape),
    }
    for name, values in scaled.items():
        np.testing.assert_allclose(model(values.astype(np.float32)), wanted, atol=0.03, err_msg=name)


def test_a_picture_is_taken_as_the_window_or_as_it_is() -> None:
    grey = RNG.random((1, 16, 16)).astype(np.float32)
    picture = unstated(grey, "display")
    np.testing.assert_array_equal(units.to_model(picture, "mr", None, (16, 16)), grey)
    np.testing.assert_allclose(units.to_model(picture, "ct", (-100, 300), (16, 16)), 400 * grey - 100, rtol=1e-5)
    wide = units.to_model(picture._replace(spacing=(1.0, 2.0, 1.0)), "ct", (-100, 300), (16, 16))
    assert (wide[0, :, :4] == -100).all() and (wide[0, :, -4:] == -100).all() and (wide[0, :, 4:12] != -100).any()
