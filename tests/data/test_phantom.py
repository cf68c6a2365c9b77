"""The phantom against its physics, its anatomy and the contract of a source."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.phantom import (
    CLASSES,
    NAMES,
    TISSUES,
    LesionModel,
    Phantom,
    SiteModel,
    gallery,
    inversion_recovery,
    null_time,
    properties,
    spin_echo,
    spoiled_gradient_echo,
)
from fedjax_mri.data.phantom.lesions import draw_height
from fedjax_mri.data.phantom.patient import draw_patient, picture
from fedjax_mri.data.phantom.physics import enhanced_t1
from fedjax_mri.data.phantom.procedural import UNSEEN, census, open_site, origin
from fedjax_mri.data.phantom.scanner import bias_field, filtered, rician, rician_mean, scan_ct
from fedjax_mri.data.phantom.shapes import angle
from fedjax_mri.data.phantom.site import draw_site
from fedjax_mri.data.phantom.source import pictures

SMALL = Phantom(clients=12, test_clients=4, test_patients=6)
SEED = 3


@pytest.fixture(scope="module")
def federation():
    return SMALL.build(SEED)


def read_jit(data, *names):
    """`read`, compiled for the named fields, or for all."""

    def read(client, indices):
        batch = data.read(data.store, client, indices)
        return {name: batch[name] for name in names or batch}

    return jax.jit(read)


def test_validation_patients_are_new_ones_of_the_training_sites_and_change_nothing_else(federation) -> None:
    without = replace(SMALL, validation_patients=0).build(SEED)
    assert list(federation.tests) == ["unseen sites", "seen sites", "validation"]
    assert list(without.tests) == ["unseen sites", "seen sites"]
    for ours, theirs in [(federation.train, without.train)] + [
        (federation.tests[name].data, test.data) for name, test in without.tests.items()
    ]:
        jax.tree.map(np.testing.assert_array_equal, (ours.sizes, ours.store), (theirs.sizes, theirs.store))
    validation = federation.tests["validation"]
    assert validation.owner.tolist() == [0, 1, 2, 3] and validation.data.sizes.tolist() == [6] * 4
    assert replace(SMALL, validation_patients=2).build(SEED).tests["validation"].data.sizes.tolist() == [2] * 4
    parts = {"train": federation.train, **{name: test.data for name, test in federation.tests.items()}}
    indices = jnp.arange(16, dtype=jnp.int32)  # as many as in the other tests, whose program reads them
    images = {
        name: np.asarray(check.reader(data.read)(data.store, jnp.int32(1), indices)["image"])[:6].reshape(6, -1)
        for name, data in parts.items()
    }
    assert len(np.unique(np.concatenate([*images.values()]), axis=0)) == 24


@pytest.fixture(scope="module")
def read(federation):
    return partial(check.reader(federation.train.read), federation.train.store)


@pytest.fixture(scope="module")
def batches(federation, read):
    """Sixteen patients of each of six sites, fields [96, ...]."""
    index = jnp.arange(16, dtype=jnp.int32)
    found = [jax.device_get(read(jnp.int32(client), index)) for client in range(6)]
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


def f32(*values):
    return tuple(jnp.float32(v) for v in values)


# --- signal equations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "t1, t2, pd, expected",
    [((4300), 2200, 1.0, 0.129), (1124, 95, 0.86, 0.304), (884, 72, 0.77, 0.308)],  # Stanisz at 1.5 T: no contrast left
)
def test_short_spin_echo_at_stanisz_values(t1, t2, pd, expected):
    assert float(spin_echo(*f32(t1, t2, pd, 600, 15))) == pytest.approx(expected, abs=2e-3)


def test_in_vivo_table_restores_t1_contrast_at_3_tesla():
    table = properties(jnp.float32(3.0))
    signal = spin_echo(table.t1, table.t2, table.pd, *f32(600, 15))
    found = [float(signal[NAMES.index(name)]) for name in ("csf", "grey matter", "white matter")]
    assert found[0] < found[1] < found[2]
    assert found[2] - found[1] > 0.08


@pytest.mark.parametrize("t1, ti", [(4300, 2481), (2569, 1705)])
def test_flair_nulls_csf(t1, ti):
    assert float(null_time(*f32(t1, 9000))) == pytest.approx(ti, abs=1.5)
    assert float(inversion_recovery(*f32(t1, 2200, 1, 9000, 110, ti))) < 1e-3


def test_gradient_echo_peaks_at_the_ernst_angle():
    angles = jnp.linspace(2.0, 60.0, 581)
    signal = spoiled_gradient_echo(*f32(800, 70, 1, 20, 4), angles)
    ernst = np.rad2deg(np.arccos(np.exp(-20 / 800)))
    assert float(angles[jnp.argmax(signal)]) == pytest.approx(ernst, abs=0.2)


@pytest.mark.parametrize("name", ["glioma", "meningioma", "adenoma"])
def test_gadolinium_shortens_tumour_t1_as_measured(name):
    tissue = TISSUES[name]
    drop = tissue.t1[0] - float(enhanced_t1(*f32(tissue.t1[0], tissue.gadolinium, 4.5)))
    assert 838 - 2 * 210 < drop < 838 + 2 * 210


def test_rician_noise_without_signal_is_rayleigh():
    noise = np.asarray(rician(jax.random.key(0), jnp.zeros((512, 512), jnp.float32), jnp.float32(2.0)))
    assert noise.mean() == pytest.approx(1.25331 * 2, rel=5e-3)
    assert noise.var() == pytest.approx(0.42920 * 4, rel=1e-2)


@pytest.mark.parametrize(("signal", "sigma"), [(0.0, 0.02), (0.02, 0.02), (0.05, 0.02), (1.0, 0.02), (0.7, 0.0)])
def test_mean_magnitude_is_that_of_rician_noise(signal, sigma):
    drawn = rician(jax.random.key(0), jnp.full((512, 512), signal, jnp.float32), jnp.float32(sigma))
    expected = float(rician_mean(*f32(signal, sigma)))
    assert float(drawn.mean()) == pytest.approx(expected, rel=2e-3, abs=1e-6)


def test_bias_field_spans_the_stated_range():
    span = np.asarray(bias_field(jnp.asarray([-9.0, 0.0, 9.0], jnp.float32), jnp.float32(0.2)))
    assert span == pytest.approx([0.905, 1.0, 1.105], abs=1e-3)


def test_ct_noise_has_the_stated_sd_and_grows_with_frequency():
    site = draw_site(SiteModel(ct_noise=(5.0, 5.0)), jax.random.key(1))
    water = (jnp.ones((128, 128), jnp.float32),)
    picture = np.asarray(scan_ct(jax.random.key(2), water, jnp.zeros(1, jnp.float32), site, jnp.float32(1.8)))
    assert picture.std() == pytest.approx(5.0, rel=0.05)
    power = np.abs(np.fft.fft2(picture)) ** 2
    assert power[:4, :4].mean() < 0.5 * power[16:24, 16:24].mean()


def test_angle_is_that_of_atan2_in_every_direction():
    around = np.arange(-180, 180, 7.5) * np.pi / 180  # the axes and the diagonals among them
    y, x = np.sin(around).astype(np.float32), np.cos(around).astype(np.float32)
    found = np.asarray(angle(jnp.asarray(y), jnp.asarray(x)))
    apart = np.angle(np.exp(1j * (found - np.arctan2(y.astype(np.float64), x))))
    assert np.abs(apart).max() < 1e-6 and float(angle(jnp.float32(0), jnp.float32(0))) == 0


def test_filter_that_passes_everything_changes_nothing():
    picture = jax.random.normal(jax.random.key(0), (64, 64), jnp.float32)
    assert np.allclose(filtered(picture, jnp.ones((64, 33), jnp.float32)), picture, atol=1e-5)


@pytest.mark.parametrize(
    "name, low, high",
    [
        ("air", -1000, -1000),
        ("fat", -100, -50),
        ("csf", 0, 15),
        ("white matter", 20, 30),
        ("grey matter", 37, 45),
        ("cortical bone", 700, 3000),
        ("diploe", 300, 700),
        ("oedema", 10, 22),
        ("necrosis", 5, 15),
        ("glioma", 20, 35),
        ("meningioma", 45, 60),
        ("adenoma", 30, 45),
        ("haematoma", 40, 90),
    ],
)
def test_hounsfield_units_lie_in_the_published_range(name, low, high):
    assert low <= TISSUES[name].hu - TISSUES[name].hu_sd and TISSUES[name].hu + TISSUES[name].hu_sd <= high


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_shapes_and_ranges(batches):
    for name, channels in {"image": 1, "mr": 1, "ct": 1, "mask": 1, "tissue": len(NAMES)}.items():
        assert batches[name].shape == (96, 64, 64, channels)
        assert batches[name].dtype == np.float32 and np.isfinite(batches[name]).all()
    assert batches["label"].dtype == np.int32
    assert batches["image"].min() >= 0 and batches["image"].max() <= 1


def test_memberships_sum_to_one(batches):
    tissue = batches["tissue"]
    assert tissue.min() >= -1e-5 and tissue.max() <= 1 + 1e-5
    assert np.allclose(tissue.sum(-1), 1, atol=1e-5)


def test_mask_is_empty_exactly_without_tumour(batches):
    largest = batches["mask"].max((1, 2, 3))
    none = batches["label"] == CLASSES.index("no tumour")
    assert (largest[none] == 0).all() and (largest[~none] > 0.9).all()


def test_mask_covers_the_tumours_tissue(batches):
    glioma = batches["label"] == 0
    tissue = batches["tissue"][glioma][..., NAMES.index("glioma")]
    assert (tissue <= batches["mask"][glioma][..., 0] + 1e-5).all()


def test_ct_and_mr_are_registered(batches):
    bone = batches["tissue"][..., NAMES.index("cortical bone")] > 0.9
    white = batches["tissue"][..., NAMES.index("white matter")] > 0.98
    assert np.median(batches["ct"][..., 0][bone]) > 500
    assert 15 < np.median(batches["ct"][..., 0][white]) < 35
    assert np.median(batches["mr"][..., 0][bone]) < 0.5 * np.median(batches["mr"][..., 0][white])


def test_mr_is_scaled_alike_at_every_site(batches):
    for site in range(6):
        patients = slice(16 * site, 16 * site + 16)
        brain = batches["tissue"][patients, ..., NAMES.index("white matter")] > 0.9
        assert 0.1 < batches["mr"][patients, ..., 0][brain].mean() < 0.9


def test_same_anatomy_at_two_sizes(read, batches):
    large = read_jit(replace(SMALL, size=128).build(SEED).train, "tissue", "mask")(
        jnp.int32(0), jnp.arange(4, dtype=jnp.int32)
    )
    for name in ("tissue", "mask"):
        big = np.asarray(large[name])
        coarse = big.reshape(4, 64, 2, 64, 2, -1).mean((2, 4))
        fine = batches[name][:4]
        if name == "tissue":
            coarse, fine = coarse[..., NAMES.index("white matter")], fine[..., NAMES.index("white matter")]
        assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.95 if fine.any() else not coarse.any()


def test_ct_is_the_classifiers_image_when_asked(batches):
    ct = read_jit(replace(SMALL, image="ct").build(SEED).train, "image", "ct")(
        jnp.int32(0), jnp.arange(2, dtype=jnp.int32)
    )
    assert np.allclose(ct["image"], np.clip((np.asarray(ct["ct"]) + 100) / 400, 0, 1), atol=1e-5)
    assert np.allclose(ct["ct"], batches["ct"][:2], atol=0.5)


def test_a_share_of_tumours_shows_in_one_modality_alone(monkeypatch):
    """What does not show it is scanned as the head was before; on stand-ins for all that takes long to compile."""
    blank = lambda value: jnp.full((4, 4), value)  # noqa: E731
    anatomy = lambda head, lesion, *_: ((blank(lesion.radius), blank(lesion.push)), blank(lesion.radius))  # noqa: E731
    scan = lambda key, tissue, *_: tissue[0] + tissue[1]  # noqa: E731
    for name, stand_in in {
        "anatomy": anatomy,
        "scan_ct": scan,
        "scan_mr": scan,
        "show_mr": lambda scan: scan,
        "white_mr": lambda scan: jnp.float32(1),
        "draw_texture": lambda *_: SimpleNamespace(bias=None),
        "tissue_signals": lambda *_: (jnp.zeros(2, jnp.float32), jnp.float32(1)),
    }.items():
        monkeypatch.setattr(f"fedjax_mri.data.phantom.patient.{name}", stand_in)
    site = jax.jit(partial(draw_site, SiteModel()))(jax.random.key(0))
    several = jax.random.split(jax.random.key(1), 400)
    for share in (0.0, 0.6):
        lesions = LesionModel(one_modality=share)

        def drawn(key: jax.Array, lesions: LesionModel = lesions) -> dict[str, jax.Array]:
            return picture(SiteModel(), lesions, 4, site, draw_patient(SiteModel(), lesions, site, key))

        batch = jax.device_get(jax.jit(jax.vmap(drawn))(several))
        ill, shows = batch["label"] != CLASSES.index("no tumour"), batch["visible"]
        for place, name in enumerate(("ct", "mr")):
            scans = batch[name][:, 0, 0, 0]
            assert ((scans > 0) == (shows[:, place] > 0))[ill].all()
            assert abs(1 - shows[:, place].mean() - share / 2) <= 4 * np.sqrt(share / 2 / 400)
        assert shows.max(1).min() == 1 and (batch["mask"].max((1, 2, 3)) > 0)[ill].all()


# --- the contract -----------------------------------------------------------------------------------------------------


def test_patient_does_not_depend_on_the_batch(read, batches):
    index = jnp.asarray([5, 0, 5, 900, 11, 2, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1], jnp.int32)
    batch = jax.device_get(read(jnp.int32(2), index))
    for row, patient in enumerate([5, 0, 5]):
        assert np.allclose(batch["mr"][row], batches["mr"][2 * 16 + patient], atol=1e-4)
        assert batch["label"][row] == batches["label"][2 * 16 + patient]


def test_patient_does_not_depend_on_vmap_or_loop(federation, batches):
    def second(client):
        """Patients 2 and 3, read in the last turn of a loop."""

        def turn(state):
            step, _ = state
            return step + 1, federation.train.read(
                federation.train.store, client, 2 * step + jnp.arange(2, dtype=jnp.int32)
            )["image"]

        start = jnp.int32(0), jnp.zeros((2, 64, 64, 1), jnp.float32)
        return jax.lax.while_loop(lambda state: state[0] < 2, turn, start)[1]

    images = jax.jit(jax.vmap(second))(jnp.arange(3, dtype=jnp.int32))
    assert np.allclose(images[2], batches["image"][34:36], atol=1e-4)


def test_same_seed_same_federation_other_seed_another(federation):
    assert (SMALL.build(SEED).labels == federation.labels).all()
    assert (SMALL.build(SEED + 1).labels != federation.labels).any()


def test_labels_count_what_read_gives(federation, read):
    counts = np.zeros_like(federation.labels[:3])
    for client in range(3):
        for start in range(0, int(federation.train.sizes[client]), 16):
            labels = np.asarray(read(jnp.int32(client), start + jnp.arange(16, dtype=jnp.int32))["label"])
            labels = labels[: federation.train.sizes[client] - start]
            counts[client] += np.bincount(labels, minlength=4).astype(np.int32)
    assert (counts == federation.labels[:3]).all()
    assert (federation.labels.sum(1) == federation.train.sizes).all()


def test_sites_are_grouped_by_what_they_are(federation):
    field, sequence = federation.groups["field strength"], federation.groups["sequence"]
    sites, _ = census(pictures(SMALL), SMALL.sites, origin(SMALL, SEED), SMALL.clients)
    assert (np.array([float(name.removesuffix(" T")) for name in field]) == sites.field).all()
    assert set(sequence) <= set(SMALL.sites.protocols) and len(sequence) == SMALL.clients


def test_patient_counts_stay_within_the_clip_and_near_the_mean():
    sites = SiteModel(patients_sigma=0.5, patients_min=10, patients_max=90)
    federation = Phantom(clients=512, sites=sites).build(0)
    assert federation.train.sizes.min() >= 10 and federation.train.sizes.max() <= 90
    assert 36 < federation.train.sizes.mean() < 44
    assert federation.train.sizes.dtype == federation.labels.dtype == np.int32


def test_class_mix_follows_alpha_and_share():
    even = Phantom(clients=128, sites=SiteModel(class_alpha=1000.0)).build(0).labels
    skewed = Phantom(clients=128, sites=SiteModel(class_alpha=0.1)).build(0).labels
    assert even.sum(0) / even.sum() == pytest.approx(SiteModel().class_share, abs=0.03)
    assert (skewed.max(1) / skewed.sum(1)).mean() > 0.7 > (even.max(1) / even.sum(1)).mean()


def test_unseen_sites_are_new_and_seen_sites_have_new_patients(federation, batches):
    unseen, seen = federation.tests["unseen sites"], federation.tests["seen sites"]
    assert (unseen.owner == -1).all() and list(seen.owner) == [0, 1, 2, 3]
    assert len(unseen.data.sizes) == 4 and (unseen.data.sizes == 6).all()
    index = jnp.arange(16, dtype=jnp.int32)
    for test in (unseen, seen):
        labels = np.asarray(read_jit(test.data, "label")(jnp.int32(0), index)["label"])
        assert (labels != batches["label"][:16]).any()
    ours, _ = open_site(pictures(SMALL), origin(SMALL, SEED), jnp.int32(0))
    theirs, _ = open_site(pictures(SMALL), origin(SMALL, SEED), jnp.int32(UNSEEN))
    assert ours.field_of_view != theirs.field_of_view


def test_level_alone_does_not_tell_the_class():
    keys = jax.random.split(jax.random.key(0), 2000)
    several = jax.jit(jax.vmap(lambda key, kind: draw_height(key, kind, LesionModel()), (0, None)))
    heights = [np.asarray(several(keys, jnp.int32(kind))) for kind in range(4)]
    bins = [np.histogram(z, np.linspace(-2, 76, 14))[0] / 2000 for z in heights]
    best = np.max(bins, axis=0).sum() / 4  # accuracy of the best guess from the height, even classes
    assert best < 0.5
    assert all((z < 20).mean() > 0.3 for z in heights)


def test_sites_table_has_every_sequence(federation):
    table = federation.tables[0]
    assert set(SiteModel().protocols) <= {row[0] for row in table.rows}
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_grid_is_written(tmp_path, monkeypatch, batches):
    """Of patients that are drawn already; cli/test_failures.py draws those of the command."""
    drawn = {name: x.reshape(6, 16, *x.shape[1:])[:2] for name, x in batches.items()}
    monkeypatch.setattr(gallery, "patients", lambda phantom, sites, seed: drawn)
    gallery.save_gallery(SMALL, 2, SEED, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "bad, word",
    [
        (Phantom(clients=0), "clients"),
        (Phantom(test_clients=0), "test_clients"),
        (Phantom(test_patients=2.5), "whole"),  # type: ignore[arg-type]
        (Phantom(size=100), "64"),
        (Phantom(image="pet"), "image"),  # type: ignore[arg-type]
        (Phantom(sites=SiteModel(patients_sigma=-1.0)), "patients_sigma"),
        (Phantom(sites=SiteModel(patients_mean=float("nan"))), "patients_mean"),
        (Phantom(sites=SiteModel(class_alpha=0.0)), "class_alpha"),
        (Phantom(sites=SiteModel(patients_min=50, patients_max=20)), "patients_min"),
        (Phantom(sites=SiteModel(patients_mean=600.0)), "patients_mean"),
        (Phantom(sites=SiteModel(mr_noise=(0.2, 0.1))), "mr_noise"),
        (Phantom(lesions=LesionModel(distractors=1.5)), "distractors"),
        (Phantom(lesions=LesionModel(contrast=-1.0)), "contrast"),
        (Phantom(lesions=LesionModel(one_modality=1.1)), "one_modality"),
    ],
)
def test_bad_settings_are_named(bad, word):
    with pytest.raises(UserError, match=word) as error:
        bad.build(0)
    assert "\n" not in str(error.value)
