"""Extra terms against their formulas in float64; what cannot be had is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.phantom.physics import NAMES, TISSUES
from fedjax_mri.metrics.structure import responses
from fedjax_mri.tasks import biophysics, losses
from fedjax_mri.tasks.extras import Direction, Extras

RNG = np.random.default_rng(0)
WINDOW = (-100.0, 300.0)
SHAPE = (2, 12, 12, 1)
X, MADE, BACK, TRUTH = RNG.uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
CT, MR = RNG.uniform(-1100, 1500, SHAPE).astype(np.float32), RNG.uniform(0, 1, SHAPE).astype(np.float32)
SIGNALS = RNG.uniform(0, 1.2, (2, len(NAMES))).astype(np.float32)
BATCH = {"ct": jnp.asarray(CT), "mr": jnp.asarray(MR), "signals": jnp.asarray(SIGNALS), "weight": jnp.ones(2)}


def unit(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) + 1) / 2


def per_image(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(1)


def encoder(path: str):
    """Two feature maps, of a network that is told by its `path`."""
    assert path == "runs/classifier"
    return lambda x: [3 * x, x[:, ::2]]


def term(name: str, to: str, paired: bool = False, **settings) -> np.ndarray:
    direction = Direction(to, X, MADE, truth=TRUTH) if paired else Direction(to, X, MADE, BACK)
    added = Extras(**{name: 0.5}, **settings).build(WINDOW)
    assert added.weights == {name: 0.5}
    return np.asarray(jax.jit(lambda batch: added.terms(direction, batch)[name])(BATCH))


def expected() -> np.ndarray:
    """The MR that interpolation between the tissues' HU gives."""
    apart = sorted(("air", "fat", "csf", "white matter", "grey matter", "muscle", "diploe", "cortical bone"),
                   key=lambda name: TISSUES[name].hu)  # fmt: skip
    hu, places = [TISSUES[name].hu for name in apart], [NAMES.index(name) for name in apart]
    return np.minimum(np.stack([np.interp(ct, hu, s[places]) for ct, s in zip(CT, SIGNALS.astype(np.float64))]), 1)


def test_biophysical_is_the_distance_from_what_the_tissue_in_the_ct_gives() -> None:
    error = unit(MADE) - expected()
    np.testing.assert_allclose(term("biophysical", "mr"), per_image(np.abs(error)), rtol=1e-5)
    np.testing.assert_allclose(term("biophysical", "mr", biophysical_norm="l2"), per_image(error**2), rtol=1e-5)
    np.testing.assert_allclose(biophysics.memberships(BATCH["ct"]).sum(-1), 1, atol=1e-6)


def test_hu_bounds_are_those_of_the_nearest_tissue_that_the_mr_allows() -> None:
    hu = -100 + 400 * unit(MADE)
    wanted = np.zeros(SHAPE)
    for place in np.ndindex(*SHAPE):
        distances = [
            max(np.clip(low, *WINDOW) - hu[place], hu[place] - np.clip(high, *WINDOW), 0)
            for name, (low, high) in biophysics.BOUNDS.items()
            if abs(MR[place] - SIGNALS[place[0], NAMES.index(name)]) <= biophysics.TOLERANCE
        ]
        wanted[place] = min(distances, default=0) / 400
    np.testing.assert_allclose(term("hu_bounds", "ct"), per_image(wanted), rtol=1e-4)
    assert wanted.max() > 0


def test_bounds_hold_the_phantoms_own_tissues() -> None:
    assert tuple(sorted(biophysics.BOUNDS)) == tuple(sorted(NAMES))
    assert all(low <= TISSUES[name].hu <= high for name, (low, high) in biophysics.BOUNDS.items())


def test_structure_compares_magnitudes_and_not_contrast() -> None:
    def normalised(x: np.ndarray) -> np.ndarray:
        strength = np.abs(np.asarray(responses(jnp.asarray(unit(x), jnp.float32)), np.float64))
        return strength / np.sqrt((strength**2).mean((1, 2), keepdims=True))

    wanted = per_image((normalised(MADE) - normalised(X)) ** 2)
    np.testing.assert_allclose(term("structure", "mr"), wanted, rtol=1e-2)
    inverted = jax.jit(losses.structure)(unit(X).astype(np.float32), unit(-0.5 * X).astype(np.float32))
    assert float(inverted.max()) < 1e-3 < wanted.min()


@pytest.mark.parametrize(("paired", "pair"), [(False, (BACK, X)), (True, (MADE, TRUTH))])
def test_what_ought_to_be_equal_is_compared(paired, pair) -> None:
    a, b = map(unit, pair)
    wanted = sum(per_image(np.abs(np.abs(np.diff(a, axis=i)) - np.abs(np.diff(b, axis=i)))) for i in (1, 2))
    np.testing.assert_allclose(term("gradient_difference", "mr", paired), wanted, rtol=1e-4)


def test_one_minus_ssim_of_the_reference_pair() -> None:
    i, j = np.mgrid[:64, :64]
    x = 0.5 + 0.35 * np.sin(2 * np.pi * i / 16) * np.cos(2 * np.pi * j / 24)
    y = np.clip(0.9 * x + 0.02 + 0.05 * (((7 * i + 13 * j) % 11) / 10 - 0.5), 0, 1)
    x, y = (jnp.asarray(2 * image[None, :, :, None] - 1, jnp.float32) for image in (x, y))
    terms = jax.jit(lambda x, y: Extras(ssim=1.0).build(None).terms(Direction("mr", x, x, y), {}))(x, y)
    np.testing.assert_allclose(terms["ssim"], [1 - 0.9802980076], atol=1e-5)


def test_perceptual_terms_compare_feature_maps() -> None:
    def features(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        gap = (unit(a) - unit(b)) ** 2
        return 9 * per_image(gap) + per_image(gap[:, ::2])

    given = {"encoder": f"{__name__}.encoder", "encoder_path": "runs/classifier"}
    np.testing.assert_allclose(term("perceptual", "mr", **given), features(MADE, X), rtol=1e-5)
    np.testing.assert_allclose(term("perceptual", "mr", True, **given), features(MADE, TRUTH), rtol=1e-5)
    np.testing.assert_allclose(term("cycle_perceptual", "ct", **given), features(BACK, X), rtol=1e-5)


def test_nothing_asked_is_nothing_added_and_weights_may_be_unknown_yet() -> None:
    assert Extras().build(None).terms(Direction("mr", X, MADE, BACK), {}) == {}
    direction = Direction("mr", X, MADE, BACK)
    value = jax.jit(lambda w: Extras(gradient_difference=w).build(None).weights["gradient_difference"] * 2)(3.0)
    assert float(value) == 6 and direction.alike == (BACK, X)


@pytest.mark.parametrize(
    ("settings", "window", "says"),
    [
        ({"ssim": -1.0}, WINDOW, "task.extras.ssim=-1"),
        ({"biophysical": 1.0}, None, "task.window=None"),
        ({"perceptual": 1.0, "encoder": "no.such.function"}, WINDOW, "task.extras.encoder=no.such.function"),
    ],
)
def test_impossible_settings_are_refused(settings, window, says) -> None:
    with pytest.raises(UserError, match=says):
        Extras(**settings).build(window)


def test_data_without_signals_are_refused() -> None:
    with pytest.raises(UserError, match="no field signals"):
        Extras(biophysical=1.0).build(WINDOW).terms(Direction("mr", X, MADE, BACK), {"ct": BATCH["ct"]})
    with pytest.raises(UserError, match=r"task\.extras\.encoder is empty"):
        Extras(perceptual=1.0).build(WINDOW).terms(Direction("mr", X, MADE, BACK), BATCH)
