"""Each step against a truth: heads of the phantom, of which brain, coil field and motion are known."""

import functools
import pathlib

import heads
import jax
import jax.numpy as jnp
import numpy as np
import prepare_accuracy as accuracy
import pytest
from scipy import ndimage

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.scan import Scan
from fedjax_mri.data.prepare import bias, foreground, intensities, register, resample, steps, strip

TEMPLATES = pathlib.Path("/usr/share/mricron/templates")


@functools.cache
def head() -> heads.Heads:
    where = heads.draw_site(jax.random.key(1), "t1_spin_echo", 0.4)
    return jax.tree.map(np.asarray, heads.head(jax.random.key(5), where, 16, 64))


def scan(voxels: np.ndarray, units: str = "arbitrary", spacing: tuple[float, ...] = (2.0, 1.0, 1.0)) -> Scan:
    return Scan(voxels.astype(np.float32), units, lambda *_: [], spacing)


def test_a_slice_is_registered_within_a_millimetre_and_a_degree() -> None:
    off, degrees, _ = accuracy.ours(accuracy.case(2, 2))  # T2, and T1 below
    assert off < 1 and degrees < 1


@pytest.mark.slow
def test_a_volume_is_registered_within_a_millimetre_and_a_degree() -> None:
    off, degrees, _ = accuracy.ours(accuracy.case(0, 3))
    assert off < 1 and degrees < 1


def test_patients_registered_together_are_as_one_by_one() -> None:
    """Blobs of two patients with spacings of their own, the moving image shifted by 2 and by 3 pixels."""
    rng, levels = np.random.default_rng(0), (register.Level(3.0, 400, 12, 1.5),)
    fixed = np.zeros((2, 24, 24), np.float32)
    fixed[:, 7:17, 6:16] = ndimage.gaussian_filter(rng.uniform(0, 1, (2, 10, 10)), 1, axes=(1, 2)) + 0.2
    moving = np.stack([np.roll(image, pixels, 1) for image, pixels in zip(1 - fixed, (2, 3))])
    spacing = np.array([[1.0, 1.0], [1.5, 1.2]], np.float32)
    one = functools.partial(register.register, levels=levels)
    together = jax.vmap(one)(fixed, moving, spacing, spacing)
    for patient in range(2):
        alone = one(fixed[patient], moving[patient], spacing[patient], spacing[patient])
        for ours, theirs in zip(together, alone):
            np.testing.assert_allclose(ours[patient], theirs, atol=1e-3)
    assert np.abs(together.shift[0] - together.shift[1]).max() > 0.1 and np.abs(together.turn).max() > 1e-4


def test_a_rotation_is_one_and_turns_by_its_angle() -> None:
    for turn in (jnp.array([0.1]), jnp.array([0.1, -0.2, 0.05])):
        matrix = np.asarray(register.rotation(turn))
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-6)
        cosine = (np.trace(matrix) - (len(matrix) - 2)) / 2
        np.testing.assert_allclose(np.arccos(cosine), 2 * np.arctan(np.linalg.norm(turn)), rtol=1e-4)


def test_the_brain_of_slices_is_found() -> None:
    one, step = head(), tuple(map(float, head().spacing[1:]))
    for place in (6, 8):
        truth = one.brain[place] > 0.5
        assert accuracy.dice(strip.mr_brain(one.mr[place], step), truth) > 0.95
        assert accuracy.dice(strip.ct_brain(one.ct[place], step), truth) > 0.94  # pixels of 3.6 mm


def test_lobes_behind_a_bone_are_added_and_scalp_is_not() -> None:
    """A brain of 70 mm within a dark skull and a bright scalp, parted by a dark bar of 6 mm; half of it was found."""
    rows, columns = np.mgrid[:180, :180] - 89.5
    radius, bar = np.hypot(rows, columns), np.abs(rows) < 3
    brain = radius < 70
    image = np.where(brain & ~bar | (radius > 76) & (radius < 84), 1.0, 0.0) + 0.01 * (radius < 84)
    found = strip.add_lobes(image, brain & (rows > 3), 0.0, (1.0, 1.0))
    assert accuracy.dice(found, brain) > 0.98 and not found[radius > 76].any()


@pytest.mark.slow
def test_the_brain_of_a_volume_is_found() -> None:
    one = accuracy.head(0)
    assert accuracy.dice(strip.mr_brain(np.asarray(one.mr), tuple(map(float, one.spacing))), one.brain > 0.5) > 0.95


@pytest.mark.slow
@pytest.mark.skipif(not TEMPLATES.exists(), reason="Debian's package mricron-data is not installed")
def test_the_brain_of_colin27_is_found() -> None:
    import nibabel

    image, truth = (
        nibabel.load(TEMPLATES / name).get_fdata(dtype=np.float32).transpose(2, 1, 0)[:, ::-1]
        for name in ("ch2.nii.gz", "ch2bet.nii.gz")
    )
    assert accuracy.dice(strip.mr_brain(np.ascontiguousarray(image), (1.0, 1.0, 1.0)), truth > 0) > 0.95


def test_most_of_a_coil_s_field_is_removed() -> None:
    one, brain = head(), head().brain > 0.5
    found = bias.correct_bias(one.mr, foreground.head(one.mr))[1]
    left = np.std(np.log(one.field[brain] / found[brain])) / np.std(np.log(one.field[brain]))
    assert left < 0.4


def test_steps_of_mr_leave_a_ct_that_is_a_picture() -> None:
    picture = scan(head().mr[6:7], "display")
    group = {"ct": picture, "mr": picture._replace(voxels=picture.voxels / picture.voxels.max())}
    reference = scan(np.sqrt(group["mr"].voxels), "display")
    for step in (steps.unbiased(""), steps.matching(lambda: reference)):
        made = step(group)
        assert made["ct"] is picture and np.abs(made["mr"].voxels - group["mr"].voxels).max() > 0.01
    assert "changed nothing" in steps.windowing("0..80")(group)["mr"].notes[-1]


def test_an_image_of_nothing_comes_back() -> None:
    empty = np.zeros((16, 16), np.float32)
    assert not foreground.head(empty).any() and not strip.mr_brain(empty, (1.0, 1.0)).any()
    assert (bias.correct_bias(empty, empty > 0)[0] == 0).all()
    assert (intensities.rescale(empty, empty > 0) == 0).all()


def test_resampling_keeps_places() -> None:
    ramp = np.broadcast_to(np.arange(32.0, dtype=np.float32), (4, 16, 32))
    made, spacing = resample.to_spacing(ramp, (2.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    assert made.shape == (4, 8, 16) and spacing == (2.0, 2.0, 2.0)
    np.testing.assert_allclose(made[0, 0, 1:-1], np.arange(16)[1:-1] * 2 + 0.5, atol=1e-4)


def test_a_matched_histogram_is_the_reference_s() -> None:
    rng = np.random.default_rng(0)
    image, reference = rng.normal(5, 2, (64, 64)).astype(np.float32), rng.gamma(3, 1, 5000)
    made = intensities.match_histogram(image, image > -100, reference)
    np.testing.assert_allclose(np.quantile(made, [0.1, 0.5, 0.9]), np.quantile(reference, [0.1, 0.5, 0.9]), rtol=0.02)
    assert (np.argsort(made.ravel()) == np.argsort(image.ravel())).mean() > 0.99


def test_denoising_brings_an_image_nearer_to_the_truth() -> None:
    truth = np.zeros((1, 48, 48), np.float32)
    truth[:, 12:36, 12:36] = 1
    noisy = truth + np.random.default_rng(0).normal(0, 0.1, truth.shape).astype(np.float32)
    for how in ("median", "gaussian", "nlm"):
        least = 0.6 if how == "nlm" else 1.0
        assert np.std(intensities.denoise(noisy, how) - truth) < least * np.std(noisy - truth)


def test_a_pair_is_cropped_to_one_box_once_it_is_registered() -> None:
    ct, mr = np.full((1, 32, 32), -1000.0), np.zeros((1, 32, 32))
    ct[:, 8:20, 10:22], mr[:, 10:24, 10:22] = 50, 1
    registered = scan(ct, "hu")._replace(notes=(steps.REGISTERED_NOTE,))
    made = steps.parse("crop:1mm")["crop:1mm"]({"ct": registered, "mr": scan(mr)})
    assert made["ct"].voxels.shape == made["mr"].voxels.shape == (1, 18, 14)


@pytest.mark.parametrize(
    "words, said",
    [
        ("nose", "no such step"),
        ("resample", "give a value, such as resample:1mm"),
        ("resample:-1mm", "positive number"),
        ("size:7.5", "whole pixels"),
        ("bias:3", "takes no value"),
        ("window:300..-100", "lower and the higher HU"),
        ("denoise:sharp", "median or gaussian or nlm"),
        ("bias,bias", "given twice"),
        ("match:nowhere.nii", "no such file"),
    ],
)
def test_bad_steps_are_refused_in_a_line(words, said) -> None:
    with pytest.raises(UserError, match=said):
        steps.parse(words)


def test_what_a_step_cannot_do_is_said() -> None:
    with pytest.raises(UserError, match="put window or rescale before"):
        steps.parse("contrast")["contrast:clahe"]({"mr": scan(head().mr)})
    with pytest.raises(UserError, match="match before rescale"):
        steps.matching(lambda: scan(head().mr))({"mr": scan(head().mr, "display")})
    with pytest.raises(UserError, match="spacing in mm is not known"):
        steps.parse("resample:1mm")["resample:1mm"]({"mr": scan(head().mr, spacing=())})
