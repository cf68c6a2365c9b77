"""Image measures against ground truth, and against float64 NumPy and SciPy."""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fedjax_mri.core.errors import UserError
from fedjax_mri.metrics import image as m

ssim = jax.jit(m.ssim, static_argnums=2)
both = jax.jit(lambda x, y, preset, mask: (m.mae(x, y, mask), m.psnr(x, y, preset, mask)), static_argnums=2)
i, j = np.mgrid[:64, :64]
X = (0.5 + 0.35 * np.sin(2 * np.pi * i / 16) * np.cos(2 * np.pi * j / 24))[None, :, :, None]
Y = np.clip(0.9 * X + 0.02 + 0.05 * (((7 * i + 13 * j) % 11) / 10 - 0.5)[None, :, :, None], 0, 1)
x, y = X.astype(np.float32), Y.astype(np.float32)


def double(x, y, preset, mask=None):
    """SSIM [B] in float64 by SciPy's filters, whose border is cropped as scikit-image crops it."""
    figures, crop = [], preset.size // 2

    def local(image):
        if preset.sd is None:
            return ndimage.uniform_filter(image, preset.size)
        return ndimage.gaussian_filter(image, preset.sd, radius=crop)

    for a, b, inside in zip(x, y, np.ones(x.shape, bool) if mask is None else mask > 0):
        a, b = (np.float64(image)[..., 0] for image in (a, b))
        if preset.clip:
            a, b = (np.clip(image, preset.low, preset.high) for image in (a, b))
        if preset.fill is not None:
            a, b = (np.where(inside[..., 0], image, preset.fill) for image in (a, b))
        a, b = a - preset.low, b - preset.low

        n = preset.size**a.ndim
        norm = n / (n - 1) if preset.sample else 1
        ma, mb = local(a), local(b)
        pairs = (a, a, ma, ma), (b, b, mb, mb), (a, b, ma, mb)
        va, vb, vab = (norm * (local(p * q) - mp * mq) for p, q, mp, mq in pairs)
        c1, c2 = (preset.k1 * preset.range) ** 2, (preset.k2 * preset.range) ** 2
        map = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        valid = (slice(crop, -crop),) * a.ndim
        figures.append(map[valid][inside[..., 0][valid]].mean())
    return np.array(figures)


def test_the_errors_of_the_reference_pair():
    assert m.mae(x, y) == pytest.approx(0.0322824265, rel=1e-6)
    assert m.rmse(x, y) == pytest.approx(0.0383149334, rel=1e-6)
    assert m.psnr(x, y, m.UNIT) == pytest.approx(28.3326385, rel=1e-6)
    assert np.isinf(m.psnr(x, x, m.UNIT))


def test_ssim_of_the_reference_pair():
    assert ssim(x, y, m.WANG) == pytest.approx(0.9802980076, abs=3e-7)
    assert ssim(x, y, m.SKIMAGE) == pytest.approx(0.9844705326, abs=3e-7)
    assert ssim(x, 1 - x, m.WANG) == pytest.approx(-0.80778, abs=5e-6)
    assert ssim(x, x, m.WANG) == pytest.approx(1, abs=3e-7)
    dark, bright = np.full_like(x, 0.3), np.full_like(x, 0.7)
    assert ssim(dark, bright, m.WANG) == pytest.approx(0.7241854853, abs=3e-7)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        other = jax.jit(dm_pix.ssim)(x, y)
    assert other[0] == pytest.approx(float(ssim(x, y, m.WANG)[0]), abs=1e-5)
    np.testing.assert_allclose(
        [double(X, Y, p)[0] for p in (m.WANG, m.SKIMAGE)], [0.9802980076, 0.9844705326], atol=1e-10
    )


def test_a_tanh_range_is_refused():
    """Traced, where no value is known, it would give .706 for .980."""
    tanh = 2 * x - 1, 2 * y - 1
    for measure in (m.ssim, m.psnr):
        with pytest.raises(UserError, match=r"from -0\.7 to 0\.7, the measure takes 0 to 1"):
            measure(*tanh, m.UNIT)
    assert ssim(*tanh, m.UNIT._replace(high=2.0)) == pytest.approx(0.70646, abs=5e-6)
    assert ssim(*tanh, m.UNIT._replace(low=-1.0)) == pytest.approx(0.9802980076, abs=3e-7)
    with pytest.raises(UserError, match="CT has values from nan"):
        m.check_range(x + np.float32(np.nan), 0, 1, "CT")
    m.check_range(x, 0, 1, "CT")


def test_bright_flat_images_keep_their_digits():
    """Where E[x^2] - E[x]^2 in float32 has lost the variance altogether."""
    rng = np.random.default_rng(0)
    flat = 0.98 + 3e-4 * rng.normal(size=(1, 32, 32, 1))
    pair = [np.float32(image) for image in (flat, flat + 3e-4 * rng.normal(size=flat.shape))]
    sharp = m.WANG._replace(k2=1e-4)  # a constant no larger than the variances
    expected = double(*pair, sharp)
    assert 0.3 < expected < 0.9
    np.testing.assert_allclose(ssim(*pair, sharp), expected, rtol=1e-4)
    ones = [jnp.asarray(image) for image in pair]
    naive = jnp.square(ones[0]).mean() - jnp.square(ones[0].mean())
    assert abs(naive / np.var(pair[0], dtype=np.float64) - 1) > 0.05


@pytest.mark.parametrize("preset", [m.SYNTHRAD2023, m.SYNTHRAD2023_SLICES], ids=lambda p: f"{p.axes}D")
def test_the_challenge_in_a_mask(preset):
    rng = np.random.default_rng(0)
    shape = (2, *(9, 12, 11)[: preset.axes], 1)
    truth = rng.normal(0, 1500, shape).astype(np.float32)
    made = truth + rng.normal(0, 400, shape).astype(np.float32)
    mask = (rng.random(shape) < 0.7).astype(np.float32)
    np.testing.assert_allclose(ssim(made, truth, preset, mask), double(made, truth, preset, mask), rtol=2e-6)
    inside, (errors, decibels) = mask > 0, both(made, truth, preset, mask)
    for b in range(2):
        error = np.float64(made[b] - truth[b])[inside[b]]
        clipped = np.float64(np.clip(made[b], -1024, 3000) - np.clip(truth[b], -1024, 3000))[inside[b]]
        assert errors[b] == pytest.approx(np.abs(error).mean(), rel=1e-6)
        expected = 10 * np.log10(4024**2 / np.square(clipped).mean())
        assert decibels[b] == pytest.approx(expected, rel=1e-6)
    assert all(
        np.isnan(figure).all() for figure in (ssim(made, truth, preset, 0 * mask), *both(made, truth, preset, 0 * mask))
    )


def test_a_preset_says_what_it_takes():
    with pytest.raises(UserError, match=r"takes \[B, D, H, W, C\]"):
        m.ssim(x, y, m.SYNTHRAD2023)
    with pytest.raises(UserError, match="smaller than the window of 11"):
        m.ssim(x[:, :10], y[:, :10], m.WANG)


def test_ssim_differentiates_and_maps():
    a, b = (image[:, 5:17, 7:19] for image in (x, y))
    slope = jax.jit(jax.vmap(jax.grad(lambda x, y: m.ssim(x, y, m.UNIT).sum())))
    step = 1e-4 * np.random.default_rng(0).normal(size=a.shape)
    expected = (double(a + step, b, m.UNIT) - double(a - step, b, m.UNIT)) / 2
    slopes = slope(np.stack([a, 0 * a]), np.stack([b, 0 * b]))
    np.testing.assert_allclose(np.sum(slopes[0] * step), expected[0], rtol=1e-3)
    np.testing.assert_allclose(slopes[1], 0, atol=1e-6)


def test_channels_are_averaged():
    colour = np.concatenate([x, y], -1), np.concatenate([y, y], -1)
    np.testing.assert_allclose(ssim(*colour, m.WANG), (ssim(x, y, m.WANG) + 1) / 2, rtol=1e-6)


def test_ms_ssim_is_the_product_over_scales():
    """64 pixels hold three scales; the terms of each by the float64 reference."""
    terms, a, b = [], X, Y
    for scale in range(3):
        terms.append(contrast(a, b) if scale < 2 else double(a, b, m.WANG)[0])
        a, b = (image.reshape(1, 32 >> scale, 2, 32 >> scale, 2, 1).mean((2, 4)) for image in (a, b))
    weights = np.array(m.MS_WEIGHTS[:3]) / sum(m.MS_WEIGHTS[:3])
    assert m.scales(x.shape, m.WANG) == 3 and m.scales((1, 176, 200, 1), m.WANG) == 5
    figure = jax.jit(m.ms_ssim, static_argnums=2)
    assert figure(x, y, m.WANG) == pytest.approx(np.prod(terms**weights), rel=1e-6)
    assert figure(x, 1 - x, m.WANG) == 0
    slope = jax.jit(jax.grad(lambda x: m.ms_ssim(x, 1 - x[:, ::-1], m.WANG).sum()))(x[:, :12, :12])
    assert np.isfinite(slope).all()


def contrast(a, b):
    def local(image):
        return ndimage.gaussian_filter(image[0, ..., 0], 1.5, radius=5)

    va, vb, vab = (local(p * q) - local(p) * local(q) for p, q in ((a, a), (b, b), (a, b)))
    return ((2 * vab + 9e-4) / (va + vb + 9e-4))[5:-5, 5:-5].mean()


def test_correlation_and_cosine():
    mask = (np.random.default_rng(0).random(x.shape) < 0.5).astype(np.float32)
    a, b = X[mask > 0], Y[mask > 0]
    assert m.ncc(x + 100, y, mask) == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-4)
    assert m.cosine(x, y, mask) == pytest.approx(a @ b / np.sqrt(a @ a * (b @ b)), rel=1e-6)
    assert np.isnan(m.ncc(np.ones_like(x), y)) and np.isnan(m.cosine(0 * x, y))


def test_mutual_information_is_of_the_joint_histogram():
    hu = 400 * y - 100
    joint, *_ = np.histogram2d(x.ravel(), hu.ravel(), 16, ((0, 1), (-100, 300)))
    p = joint / joint.sum()
    outer = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    expected = np.sum(p[p > 0] * np.log(p[p > 0] / outer[p > 0]))
    information = jax.jit(lambda x, y, mask: m.mutual_information(x, y, ((0.0, 1.0), (-100.0, 300.0)), 16, mask))
    ones = np.ones_like(x)
    assert information(x, hu, ones) == pytest.approx(expected, rel=1e-5)
    assert information(x, ones, ones) == pytest.approx(0, abs=1e-6)
    assert np.isnan(information(x, hu, 0 * ones))
