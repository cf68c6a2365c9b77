"""Frechet and kernel distances against ground truth, and the encoder that needs no weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from fedjax_mri.metrics import distance as m
from fedjax_mri.metrics import structure
from fedjax_mri.metrics.window import halved, smooth

moments, responses = jax.jit(m.moments), jax.jit(structure.responses, static_argnums=1)


def test_frechet_of_two_gaussians():
    first = np.zeros(3), np.diag([1.0, 4, 9])
    second = np.array([1.0, 2, 2]), np.diag([4.0, 1, 16])
    assert m.frechet(*first, *second) == pytest.approx(12, abs=1e-12)
    assert m.frechet(*second, *first) == pytest.approx(12, abs=1e-12)
    assert m.frechet(*first, *first) == pytest.approx(0, abs=1e-12)


def test_frechet_against_a_matrix_root():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 6)), 1 + rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
    cov = [np.cov(x.T) for x in (a, b)]
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(sum(cov) - 2 * linalg.sqrtm(cov[0] @ cov[1]).real)
    sums = [moments(x.astype(np.float32), np.ones(len(x), np.float32)) for x in (a, b)]
    assert m.frechet_of(*sums) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n, bias", [(50, 44.95), (500, 4.42), (5000, 0.444)])
def test_two_samples_of_one_distribution(n, bias):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, n, 64))
    sums = [m.Moments(x.sum(0), x.T @ x, np.float64(n)) for x in (a, b)]
    assert m.frechet_of(*sums) == pytest.approx(bias, rel=0.08)


def test_the_kernel_distance_has_no_bias():
    """Its mean over 300 pairs of samples is 0 within three standard errors; not so with each paired with itself."""
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(300, 2, 8, 3))
    values = np.array([m.kernel_distance(*pair) for pair in pairs])
    own = np.array([sum(np.mean(((x * x).sum(1) / 3 + 1) ** 3) / 8 for x in pair) for pair in pairs])
    error = values.std() / np.sqrt(300)
    assert abs(values.mean()) < 3 * error < 0.5 < (values + own).mean()


def test_moments_merge_and_forget_padding():
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(12, 4)).astype(np.float32), np.ones(12, np.float32)
    whole = moments(features, weight)
    parts = jax.tree.map(jnp.add, moments(features[:5], weight[:5]), moments(features[5:], weight[5:]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, parts)
    spoilt = np.concatenate([features, np.full((1, 4), np.nan, np.float32)])
    padded = moments(spoilt, np.append(weight, np.float32(0)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, padded)
    mean, cov = m.mean_covariance(whole)
    np.testing.assert_allclose(mean, features.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cov, np.cov(features.T), rtol=1e-4, atol=1e-6)
    assert np.isnan(m.frechet_of(whole, moments(features[:1], weight[:1])))


def test_kernel_distance_counts_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), 1 + rng.normal(size=(7, 3))

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    xx = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert m.kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-10)
    assert np.isnan(m.kernel_distance(x[:1], y))


def test_filters_answer_their_structures():
    bank = structure.filters(2.0)
    assert list(bank) == ["ventricle", "edge 0", "edge 90", "ridge 0", "ridge 45", "ridge 90", "ridge 135"]
    for kernel in bank.values():
        assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
        assert kernel.sum() == pytest.approx(0, abs=1e-5) and np.abs(kernel).sum() == pytest.approx(2, abs=1e-5)
    row, column = np.mgrid[-20:21, -20:21].astype(np.float32)
    shapes = {
        "ventricle": row**2 + column**2 < 3.5**2,
        "edge 0": column > 0,
        "edge 90": row > 0,
        "ridge 0": abs(row) < 1.5,
        "ridge 45": abs(row - column) < 2,
        "ridge 90": abs(column) < 1.5,
        "ridge 135": abs(row + column) < 2,
    }
    images = np.stack(list(shapes.values()))[..., None].astype(np.float32)
    seen = responses(images, 2.0)
    middle = seen[:, 20, 20]
    for row, name in enumerate(shapes):
        assert int(jnp.argmax(middle[row])) == list(bank).index(name), name
        assert 0.4 < middle[row].max() < 1.001
    np.testing.assert_allclose(responses(1 + 0 * images[:1], 2.0), 0, atol=1e-5)  # nor at the border


def test_a_response_is_a_sum_of_products():
    image = np.random.default_rng(0).random((1, 9, 9, 1)).astype(np.float32)
    kernel, seen = structure.filters(9.0)["edge 0"], responses(image, 9.0)
    reach = len(kernel) // 2
    expected = np.sum(image[0, 4 - reach : 5 + reach, 4 - reach : 5 + reach, 0] * kernel)
    assert seen[0, 4, 4, 1] == pytest.approx(expected, rel=1e-5)


def test_the_encoder_tells_blurred_from_sharp_at_any_resolution():
    coarse = np.random.default_rng(0).random((16, 4, 4, 1)).astype(np.float32)
    resize = jax.jit(lambda how: jax.image.resize(coarse, (16, 32, 32, 1), how), static_argnums=0)
    sharp, soft = resize("nearest"), jax.jit(smooth, static_argnums=1)(resize("cubic"), 2.0)
    encode = jax.jit(m.structure_features, static_argnums=1)
    features, blurred = encode(sharp, 1.5), encode(soft, 1.5)
    assert features.shape == (16, 44) and np.isfinite(features).all()
    sums = [moments(part, np.ones(8, np.float32)) for part in (features[:8], features[8:], blurred[8:])]
    assert m.frechet_of(sums[0], sums[2]) > 1.5 * m.frechet_of(*sums[:2])
    np.testing.assert_allclose(encode(jax.jit(halved)(soft), 3.0)[:, 2:16], blurred[:, 2:16], rtol=0.25, atol=0.02)
    slope = jax.jit(jax.grad(lambda x: m.structure_features(x).sum()))
    assert np.isfinite(slope(np.zeros((1, 12, 12, 1), np.float32))).all()
