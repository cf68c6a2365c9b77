"""The phantoms of thorax and skin against what they are said to show, and the contract of a source."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.contract import VALIDATION
from fedjax_mri.data.phantom import dermoscopy, procedural, radiograph, skin, thorax
from fedjax_mri.data.phantom.gallery import save_sheet
from fedjax_mri.data.phantom.skin import Skin, SkinSites
from fedjax_mri.data.phantom.thorax import Thorax, ThoraxSites

EACH, SITES = 40, 4
EVEN = {"class_share": (1 / 7,) * 7, "class_alpha": 1000.0}
SOURCES = {
    "thorax": Thorax(
        clients=SITES, test_clients=2, test_patients=5, size=48, sites=ThoraxSites(class_share=(0.5, 0.5))
    ),
    "skin": Skin(clients=SITES, test_clients=2, test_patients=5, size=48, sites=SkinSites(**EVEN, hairy=0.0)),
}


@pytest.fixture(scope="module", params=SOURCES)
def source(request):
    return SOURCES[request.param]


def examples(source, clients: int = SITES, each: int = EACH) -> dict[str, np.ndarray]:
    """The first examples of the first clients, fields [clients * each, ...], by a program that is quick to compile."""
    train = source.build(0).train
    read, index = check.reader(train.read), jnp.arange(each, dtype=jnp.int32)
    batches = [jax.device_get(read(train.store, jnp.int32(client), index)) for client in range(clients)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.fixture(scope="module")
def chests() -> dict[str, np.ndarray]:
    return examples(SOURCES["thorax"])


@pytest.fixture(scope="module")
def lesions() -> dict[str, np.ndarray]:
    return examples(SOURCES["skin"])


# --- radiographs ------------------------------------------------------------------------------------------------------


def test_an_opacity_is_there_exactly_with_pneumonia(chests):
    ill, most = chests["label"] == 1, chests["mask"].max((1, 2, 3))
    assert 0.3 < ill.mean() < 0.7 and not most[~ill].any()
    assert (most[ill] > 0.15).mean() > 0.95 and chests["mask"].min() >= 0 and chests["mask"].max() <= 1
    assert 0.002 < chests["mask"][ill].mean((1, 2, 3)).mean() < 0.2


def test_an_opacity_attenuates_by_the_air_that_it_replaces():
    """A patient with and without his pneumonia: the optical depth grows by the mask times the path through air."""
    source = SOURCES["thorax"]
    site = jax.jit(lambda key: thorax.draw_site(source.sites, key))(jax.random.key(0))
    ill = jax.jit(lambda *given: thorax.draw_patient(1.0, *given))(
        site._replace(class_mix=np.array([0, 1], np.float32)), jax.random.key(1)
    )
    well = ill._replace(opacity=ill.opacity._replace(radius=jnp.zeros(radiograph.SPECKS, jnp.float32)))
    seen = check.reader(lambda patient: thorax.picture(0.0, 48, site, patient))
    one, other = seen(ill), seen(well)
    line = (np.arange(48, dtype=np.float32) - 23.5) * float(site.field_of_view) / 48
    right, up = (float(x) for x in ill.pose[1:])
    x, y = np.broadcast_arrays(line[None] - 4 * right, -line[:, None] - 6 * up)
    textures = jax.jit(thorax.textures, static_argnums=(1, 2))(ill.looks, 48, (5, 22, 10))
    air = jax.jit(radiograph.trace)(well.chest, well.opacity, x, y, textures).lung
    expected = (radiograph.SOFT - radiograph.LUNG) * np.asarray(air * one["mask"][..., 0])
    np.testing.assert_allclose((one["depth"] - other["depth"])[..., 0], expected, atol=2e-4)
    assert expected.max() > 0.1


def test_rays_through_lungs_are_weakened_least_and_through_the_spine_most(chests):
    normal = chests["depth"][chests["label"] == 0][..., 0]
    middle = normal[:, 20:28]
    lung, spine = np.minimum(middle[:, :, 10:16].mean((1, 2)), middle[:, :, 32:38].mean((1, 2))), middle[:, :, 23:25]
    assert (spine.mean((1, 2)) > lung + 0.5).all() and (normal[:, 0, 0] < 0.2 * lung).all()


def test_a_detector_without_faults_reads_the_optical_depth():
    depth = jnp.asarray(np.random.default_rng(0).uniform(0.5, 3.0, (32, 32)), jnp.float32)
    none, exposed = jnp.float32(0), jax.jit(radiograph.exposed)
    read = exposed(jax.random.key(0), depth, none, none, none)
    np.testing.assert_allclose(read, depth, atol=1e-3)
    fogged = np.asarray(exposed(jax.random.key(0), depth, jnp.float32(0.3), none, none))
    assert fogged.std() < 0.9 * np.asarray(depth).std()
    noisy = exposed(jax.random.key(0), jnp.full((32, 32), 2.0, jnp.float32), none, jnp.float32(0.02), none)
    assert np.asarray(noisy).std() == pytest.approx(0.02, rel=0.05)


def test_a_path_through_a_bar_is_its_thickness():
    across = jnp.asarray([0.0, 5.0, 10.0, 11.0], jnp.float32)
    np.testing.assert_allclose(radiograph.rod(across, 10.0, 20.0), [20.0, 20.0 * 0.75**0.5, 0.0, 0.0], atol=1e-3)


# --- lesions ----------------------------------------------------------------------------------------------------------


def by_class(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {name: float(values[labels == label].mean()) for label, name in enumerate(skin.CLASSES)}


def asymmetry(mask: np.ndarray) -> float:
    """The share of a lesion that does not fold onto itself about its principal axes, the mean of both."""
    rows, columns = np.indices(mask.shape)
    weight = mask / mask.sum()
    y, x = rows - (weight * rows).sum(), columns - (weight * columns).sum()
    axes = np.linalg.eigh(np.cov(np.stack([y.ravel(), x.ravel()]), aweights=weight.ravel()))[1]
    shares = []
    for axis in axes.T:
        away = y * axis[0] + x * axis[1]
        folded = (y - 2 * away * axis[0] + rows[0, 0] - y[0, 0], x - 2 * away * axis[1] + columns[0, 0] - x[0, 0])
        there = np.round(np.stack(folded)).astype(int).clip(0, mask.shape[0] - 1)
        shares.append(np.abs(mask - mask[there[0], there[1]]).sum() / (2 * mask.sum()))
    return float(np.mean(shares))


def test_melanoma_is_larger_and_less_symmetric_than_a_naevus(lesions):
    labels, masks = lesions["label"], lesions["mask"][..., 0]
    area = by_class(masks.mean((1, 2)), labels)
    fold = by_class(np.array([asymmetry(mask) for mask in masks]), labels)
    assert area["mel"] > 1.5 * area["nv"] and area["mel"] > max(area["df"], area["vasc"])
    assert fold["mel"] > 1.4 * fold["nv"] and fold["mel"] > 1.4 * fold["df"]
    assert all(0.01 < one < 0.5 for one in area.values())


def test_the_area_of_a_smooth_round_lesion_is_that_of_its_circle():
    even = {name: jnp.float32(0) for name in dermoscopy.Lesion._fields}
    round_ = even | {"radius": jnp.float32(4), "stretch": jnp.float32(1), "waves": jnp.zeros((10, 2), jnp.float32)}
    line = np.float32((np.arange(100) - 49.5) * 0.15)
    beyond = jax.jit(dermoscopy.beyond_edge)(
        dermoscopy.Lesion(**round_), *np.broadcast_arrays(line[None], -line[:, None])
    )
    assert float((beyond < 0).mean()) * 15**2 == pytest.approx(np.pi * 16, rel=0.01)


def test_colours_are_those_of_the_pigments(lesions):
    labels, image, mask = lesions["label"], lesions["image"], lesions["mask"]
    skin_colour = (image * (mask < 0.01)).sum((1, 2)) / (mask < 0.01).sum((1, 2))
    ratio = (image * mask).sum((1, 2)) / mask.sum((1, 2)) / skin_colour  # [n, 3], what the lesion leaves of the light
    left = {name: ratio[labels == label].mean(0) for label, name in enumerate(skin.CLASSES)}
    assert (left["mel"] < 0.75).all() and left["mel"].mean() < left["nv"].mean() < left["df"].mean()
    for red in ("vasc", "akiec", "bcc"):
        assert left[red][0] / left[red][1] > 1.15 * left["nv"][0] / left["nv"][1] or red != "vasc"
        assert left[red][0] > left["mel"][0]
    varied = np.array([(image[i, ..., 0] / skin_colour[i, 0])[mask[i, ..., 0] > 0.9].std() for i in range(len(image))])
    assert by_class(varied, labels)["mel"] > 1.3 * by_class(varied, labels)["nv"]


def test_classes_are_as_frequent_as_in_ham10000():
    labels = Skin(clients=50, sites=SkinSites(class_alpha=1000.0, patients_total=10015)).build(0).labels
    assert labels.sum() == 10015 and labels.sum(1).max() - labels.sum(1).min() <= 1
    assert labels.sum(0) / 10015 == pytest.approx(np.array(skin.SHARES) / 10015, abs=0.015)


# --- the contract of both ---------------------------------------------------------------------------------------------


def test_images_are_shades_from_black_to_white(source):
    batch, federation = examples(source, 1, 8), source.build(0)
    assert batch["image"].shape == (8, *federation.image) and batch["image"].dtype == np.float32
    assert np.isfinite(batch["image"]).all() and batch["image"].min() >= 0 and batch["image"].max() <= 1
    assert batch["image"].std() > 0.05 and batch["label"].dtype == np.int32
    assert federation.synthetic and federation.classes == (thorax if isinstance(source, Thorax) else skin).CLASSES


def test_an_example_depends_on_neither_batch_nor_lane(source):
    train, one = source.build(0).train, examples(source, 2, 8)
    read = check.reader(train.read)
    index = jnp.asarray([5, 900, 0, 5, 1, 1, 1, 1], jnp.int32)
    batch = jax.device_get(read(train.store, jnp.int32(1), index))
    lanes = check.reader(jax.vmap(train.read, (None, 0, None)))
    several = jax.device_get(lanes(train.store, jnp.asarray([1, 0], jnp.int32), index))
    for row, patient in {0: 5, 2: 0, 3: 5}.items():
        for found in (batch["image"][row], several["image"][0, row]):
            np.testing.assert_allclose(found, one["image"][8 + patient], atol=2e-4)
        np.testing.assert_allclose(several["image"][1, row], one["image"][patient], atol=2e-4)
        assert batch["label"][row] == one["label"][8 + patient]


def test_labels_count_what_read_gives_and_sizes_are_those_asked_for(source):
    settings = replace(source, sites=replace(source.sites, patients_total=90, patients_shares=(5, 6, 9, 10)))
    federation = settings.build(1)
    assert federation.train.sizes.tolist() == [15, 18, 27, 30]
    read, index = check.reader(federation.train.read), jnp.arange(EACH, dtype=jnp.int32)
    for client in range(SITES):
        labels = np.asarray(read(federation.train.store, jnp.int32(client), index)["label"])
        counts = np.bincount(labels[: federation.train.sizes[client]], minlength=len(federation.classes))
        assert counts.tolist() == federation.labels[client].tolist()


def test_no_patient_is_in_two_sets(source):
    federation = source.build(0)
    read, index = check.reader(federation.train.read), jnp.arange(8, dtype=jnp.int32)
    sets = [federation.train, *(test.data for test in federation.tests.values())]
    images = [jax.device_get(read(one.store, jnp.int32(0), index))["image"] for one in sets]
    assert list(federation.tests) == ["unseen sites", "seen sites", VALIDATION]
    for one in range(len(images)):
        for other in range(one):
            assert np.abs(images[one][:, None] - images[other][None]).mean((2, 3, 4)).min() > 1e-3


def test_hospitals_differ_by_machine_and_equal_settings_share_a_program(source):
    module = thorax if isinstance(source, Thorax) else skin
    pictures = module.pictures(source)
    sites, _ = procedural.census(pictures, source.sites, procedural.origin(source, 0), SITES)
    assert len(np.unique(sites.noise)) == SITES and len(np.unique(sites.field_of_view)) == SITES
    skewed = replace(source, clients=9, sites=replace(source.sites, class_alpha=0.1))
    assert procedural.reader(module.pictures(skewed)) is procedural.reader(pictures)


def test_a_model_that_knows_more_classes_may_be_tested(source):
    federation = source.build(0)
    classes = ("other", *reversed(federation.classes))
    tests, _ = source.evaluation(classes, 0)
    read, index = check.reader(tests["seen sites"].data.read), jnp.arange(8, dtype=jnp.int32)
    data = federation.tests["seen sites"].data
    before = np.asarray(check.reader(data.read)(data.store, jnp.int32(1), index)["label"])
    after = np.asarray(read(tests["seen sites"].data.store, jnp.int32(1), index)["label"])
    assert [classes[label] for label in after] == [federation.classes[label] for label in before]
    with pytest.raises(UserError, match="this model knows glioma"):
        source.evaluation(("glioma",), 0)


def test_a_sheet_is_written(source, tmp_path):
    save_sheet(source, 1, 0, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (Thorax(size=8), "size"),
        (Thorax(density=1.5), "density"),
        (Thorax(sites=ThoraxSites(noise=(0.2, 0.1))), "noise"),
        (Thorax(sites=ThoraxSites(class_share=(1.0, 0.0))), "class_share"),
        (Thorax(clients=3, sites=ThoraxSites(patients_total=9, patients_shares=(1, 2))), "give 3 shares"),
        (Skin(sites=SkinSites(class_share=(0.5, 0.5))), "class_share"),
        (Skin(sites=SkinSites(hairy=2.0)), "hairy"),
        (Skin(contrast=-1.0), "contrast"),
        (Skin(sites=SkinSites(warmth=(float("nan"), 0.0))), "warmth"),
    ],
)
def test_bad_settings_are_named(bad, word):
    with pytest.raises(UserError, match=word) as error:
        bad.build(0)
    assert "\n" not in str(error.value)
