"""Measures of maps against NumPy, by hand, and against what their papers say they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from fedjax_mri.xai import faithfulness, measures, stability

RNG = np.random.default_rng(0)
MAPS = np.round(RNG.normal(size=(3, 12, 13)), 1).astype(np.float32)  # with equal values
MASKS = np.zeros((3, 12, 13), np.float32)
MASKS[0, 2:6, 3:9] = MASKS[1, 8:, 8:] = 1  # the third has no lesion
BRAIN = np.ones_like(MASKS)
BRAIN[:, 0] = 0


def each(function, *arrays) -> np.ndarray:
    return np.array([function(*one) for one in zip(*arrays)])


def test_activation_and_coverage_are_those_of_the_raw_map() -> None:
    def intensity(m):
        return min(m[m >= 0.5 * m.max()].mean() / 4.0, 1.0)

    found = measures.activation_intensity(MAPS, 4.0)
    np.testing.assert_allclose(found, each(intensity, MAPS), rtol=1e-6)
    np.testing.assert_allclose(measures.activation_intensity(MAPS / 2, 4.0), found / 2, rtol=1e-6)  # not scaled away
    assert float(measures.activation_intensity(100 * MAPS, 4.0).max()) == 1
    assert np.isnan(measures.activation_intensity(-np.abs(MAPS))).all()
    covered = each(lambda m, b: (m > 0.8)[b > 0].mean(), MAPS, BRAIN)
    np.testing.assert_allclose(measures.region_coverage(MAPS, BRAIN, 1.6), covered, rtol=1e-6)
    own = measures.region_coverage(MAPS, BRAIN, MAPS.max((1, 2)))
    np.testing.assert_allclose(own, each(lambda m, b: (m > m.max() / 2)[b > 0].mean(), MAPS, BRAIN), rtol=1e-6)


@pytest.mark.parametrize("tolerance", [0, 2])
def test_pointing_finds_the_lesion(tolerance) -> None:
    def hit(m, mask):
        wide = ndimage.maximum_filter(mask, 2 * tolerance + 1, mode="constant")
        return wide.ravel()[m.argmax()] if mask.any() else np.nan

    np.testing.assert_array_equal(measures.pointing_game(MAPS, MASKS, tolerance), each(hit, MAPS, MASKS))
    np.testing.assert_array_equal(measures.pointing_game(MASKS, MASKS), [1, 1, np.nan])
    assert measures.pointing_game(np.ones_like(MAPS), np.ones_like(MAPS)).tolist() == [0, 0, 0]


def test_energy_and_overlap_with_the_lesion() -> None:
    def energy(m, mask):
        return np.maximum(m, 0)[mask > 0].sum() / np.maximum(m, 0).sum() if mask.any() else np.nan

    def iou(m, mask):
        top = np.zeros(m.size)
        top[np.argsort(-m.ravel(), kind="stable")[: int(mask.sum())]] = 1
        return (top * mask.ravel()).sum() / max((top + mask.ravel() > 0).sum(), 1) if mask.any() else np.nan

    np.testing.assert_allclose(measures.energy_inside(MAPS, MASKS), each(energy, MAPS, MASKS), rtol=1e-6)
    np.testing.assert_allclose(measures.iou_at_matched_area(MAPS, MASKS), each(iou, MAPS, MASKS), rtol=1e-6)
    best = measures.against_mask(3 * MASKS - 1, MASKS)
    assert all(value[:2].tolist() == [1, 1] and np.isnan(value[2]) for value in best.values())


def test_sparseness() -> None:
    few = np.zeros((3, 2, 2), np.float32)  # one pixel, all alike, nothing
    few[0, 1, 0], few[1] = -3, 1
    np.testing.assert_allclose(measures.gini(few), [0.75, 0, np.nan], atol=1e-6)
    np.testing.assert_allclose(measures.complexity(few)[:2], [0, np.log(4)], atol=1e-6)

    def gini(m):  # mean absolute difference over twice the mean
        v = np.abs(m).ravel().astype(float)
        return np.abs(v[:, None] - v).mean() / 2 / v.mean()

    np.testing.assert_allclose(measures.gini(MAPS), each(gini, MAPS), rtol=1e-5)


W = RNG.normal(size=(12, 13, 1, 3)).astype(np.float32) / 4
X = RNG.normal(size=(3, 12, 13, 1)).astype(np.float32)
TARGET = np.array([0, 2, 1])


def scores(x: jax.Array) -> jax.Array:
    return jnp.einsum("bhwc,hwck->bk", x, W, precision="highest")


def given(x: jax.Array) -> jax.Array:
    """Gradient x input, which is exact for a linear model."""
    return (x[..., None] * W[None])[:, :, :, 0][jnp.arange(3), :, :, TARGET]


def test_deletion_and_insertion_take_pixels_in_order() -> None:
    maps, steps = np.asarray(given(X)), 4
    order = np.stack([np.argsort(-m.ravel(), kind="stable") for m in maps])

    def curve(first, second):
        points = []
        for step in range(steps + 1):
            mixed = first.reshape(3, -1).copy()
            for image, pixels in enumerate(order[:, : step * 156 // steps]):
                mixed[image, pixels] = second.reshape(3, -1)[image, pixels]
            logits = np.einsum("bn,nk->bk", mixed, W.reshape(-1, 3)).astype(np.float64)
            points.append((np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[np.arange(3), TARGET])
        return np.trapezoid(np.stack(points, 1), dx=1 / steps, axis=1)

    black = np.full_like(X, 0.1)
    deleted = faithfulness.deletion(scores, X, TARGET, maps, 0.1, steps)
    inserted = faithfulness.insertion(scores, X, TARGET, maps, 0.1, steps)
    np.testing.assert_allclose(deleted, curve(X, black), rtol=1e-4)
    np.testing.assert_allclose(inserted, curve(black, X), rtol=1e-4)
    assert (faithfulness.deletion(scores, X, TARGET, -maps, 0.1, steps) > deleted).all()


def test_an_exact_map_is_wholly_faithful_and_a_random_one_is_not() -> None:
    key = jax.random.key(0)
    exact = faithfulness.correlation(scores, X, TARGET, given(X), key)
    np.testing.assert_allclose(exact, 1, atol=1e-4)
    assert (np.abs(faithfulness.correlation(scores, X, TARGET, MAPS, key)) < 0.8).all()
    assert np.isnan(faithfulness.correlation(scores, X, TARGET, 0 * MAPS, key)).all()


def test_sensitivity_is_bounded_by_what_the_disturbance_allows() -> None:
    found = np.asarray(faithfulness.max_sensitivity(given, X, jax.random.key(1), radius=0.1))
    weight = np.abs(W[..., 0, :][..., TARGET]).transpose(2, 0, 1)
    most = 0.1 * np.sqrt((weight**2).sum((1, 2))) / np.sqrt(np.square(given(X)).sum((1, 2)))
    assert (found < most).all() and (found > 0.3 * most).all()
    assert (faithfulness.max_sensitivity(lambda x: jnp.ones(x.shape[:3]), X, jax.random.key(1)) == 0).all()


def test_maps_are_compared_by_rank_shape_and_peak() -> None:
    other = (MAPS + RNG.normal(size=MAPS.shape)).astype(np.float32)
    compare = jax.jit(stability.compare)
    found = compare(MAPS, other)
    rho = each(lambda a, b: stats.spearmanr(a.ravel(), b.ravel()).statistic, MAPS, other)
    np.testing.assert_allclose(found["rank correlation"], rho, atol=1e-5)
    for name, value in compare(MAPS, 5 * MAPS).items():
        np.testing.assert_allclose(value, 1, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(compare(MAPS, -MAPS)["rank correlation"], -1, atol=1e-5)
    assert np.isnan(compare(MAPS, 0 * MAPS)["rank correlation"]).all()

    def common(a, b, k=16):
        return len({*np.argsort(-a.ravel(), kind="stable")[:k]} & {*np.argsort(-b.ravel(), kind="stable")[:k]}) / k

    np.testing.assert_allclose(found["top tenth"], each(common, MAPS, other))


def test_curves_over_states_and_agreement_of_models() -> None:
    maps = jnp.asarray(np.stack([MAPS, MAPS + RNG.normal(size=MAPS.shape).astype(np.float32), 2 * MAPS]))
    found = jax.jit(stability.curves)(maps)
    assert all(value.shape == (3, 3) for value in found.values())
    assert np.isnan(found["SSIM to the one before"][0]).all()
    np.testing.assert_allclose(found["rank correlation to the last"][0], 1, atol=1e-5)
    pair = jax.jit(stability.compare)(maps[0], maps[1])
    np.testing.assert_allclose(found["top tenth to the one before"][1], pair["top tenth"])
    square = jax.jit(stability.agreement)(maps)["rank correlation"]
    np.testing.assert_allclose(square, square.T, atol=1e-6)
    np.testing.assert_allclose(square[0, 1], pair["rank correlation"].mean(), atol=1e-5)
