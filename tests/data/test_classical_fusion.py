"""Classical image fusion against NumPy in float64, and what holds of any rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.classical_fusion import RULES, fuse, haar, unhaar

rng = np.random.default_rng(0)
A, B = (rng.uniform(size=(3, 16, 24, 1)).astype(np.float32) for _ in range(2))
A[1] = 0.3 * A[1] + 0.1 * B[1]  # correlated, of unlike spread
B[2] = 1 - A[2] + 0.01 * B[2]  # against each other


def average(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a + b) / 2


def pca(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    _, vectors = np.linalg.eigh(np.cov(a.ravel(), b.ravel()))
    weights = np.abs(vectors[:, -1]) / np.abs(vectors[:, -1]).sum()
    return weights[0] * a + weights[1] * b


def wavelet(a: np.ndarray, b: np.ndarray, levels: int = 3) -> np.ndarray:
    if not levels:
        return (a + b) / 2
    (low_a, details_a), (low_b, details_b) = (split(x) for x in (a, b))
    details = np.where(np.abs(details_a) >= np.abs(details_b), details_a, details_b)
    return joined(wavelet(low_a, low_b, levels - 1), details)


def matrix(size: int) -> np.ndarray:
    """Haar's sums, then differences, of neighbours; orthogonal [size, size]."""
    pairs = np.kron(np.eye(size // 2), [1, 1]), np.kron(np.eye(size // 2), [1, -1])
    return np.concatenate(pairs) / np.sqrt(2)


def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Approximation, and all coefficients with zeros in its place."""
    y = matrix(x.shape[0]) @ x @ matrix(x.shape[1]).T
    low = y[: x.shape[0] // 2, : x.shape[1] // 2].copy()
    y[: x.shape[0] // 2, : x.shape[1] // 2] = 0
    return low, y


def joined(low: np.ndarray, details: np.ndarray) -> np.ndarray:
    y = details.copy()
    y[: low.shape[0], : low.shape[1]] = low
    return matrix(y.shape[0]).T @ y @ matrix(y.shape[1])


@pytest.mark.parametrize("reference", [average, pca, wavelet])
def test_equals_numpy(reference) -> None:
    rule = jax.jit(RULES[reference.__name__])
    wanted = np.stack([reference(a, b) for a, b in zip(A[..., 0].astype(np.float64), B[..., 0].astype(np.float64))])
    np.testing.assert_allclose(rule(A, B)[..., 0], wanted, atol=2e-5)
    np.testing.assert_allclose(rule(A, A), A, atol=2e-6)


def test_haar_keeps_energy_and_comes_back() -> None:
    parts = jax.jit(haar)(A)
    np.testing.assert_allclose(sum(np.sum(np.square(part)) for part in parts), np.sum(A**2), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(unhaar)(*parts), A, atol=1e-6)


def test_flat_images_and_odd_sides() -> None:
    flat = jnp.full((2, 5, 7, 1), 0.5)
    for rule in map(jax.jit, RULES.values()):
        np.testing.assert_allclose(rule(flat, 0 * flat), 0.25, atol=1e-6)


def test_of_one_image_it_is_that_image() -> None:
    has = jnp.asarray([[1, 0], [0, 1], [1, 1]], jnp.float32)
    for rule in RULES:
        found = jax.jit(fuse, static_argnums=0)(rule, A, B, has)
        np.testing.assert_allclose(found[:2], np.stack([A[0], B[1]]), atol=2e-6)
        assert np.abs(found[2] - A[2]).max() > 0.1
    with pytest.raises(UserError, match=r"task.classical=sum"):
        fuse("sum", jnp.asarray(A), jnp.asarray(B), has)  # type: ignore[arg-type]
