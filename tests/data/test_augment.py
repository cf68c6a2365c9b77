"""Off is off, exact maps are exact, and the same numbers come out whatever compiles them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import augment as augmentation
from fedjax_mri.data.augment import Augment, Preprocess, rotation

KEY = jax.random.key(0)
ALL = Augment(flip=0.5, rotate_deg=20, zoom=0.2, crop=0.2, brightness=0.2, contrast=0.3)
STILL = jnp.zeros(2)
# whole programs: each operation would be compiled by itself
augment, preprocess = (jax.jit(one, static_argnums=0) for one in (augmentation.augment, augmentation.preprocess))
training_images = jax.jit(augmentation.training_images, static_argnums=(0, 1))
blurred = jax.jit(augmentation.blurred, static_argnums=1)
warp, median = jax.jit(augmentation.warp), jax.jit(augmentation.median)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def smooth(size):
    y, x = np.mgrid[:size, :size] / size
    return (0.5 + 0.3 * np.sin(6 * x + 1) * np.cos(5 * y)).astype(np.float32)[..., None]


def test_off_returns_the_input_itself():
    images = noise(2, 8, 8, 1)
    assert augmentation.augment(Augment(), KEY, images) is images


def test_flips_are_flips():
    images = noise(64, 8, 9, 2)
    out = np.asarray(augment(Augment(flip=0.5), KEY, images))
    flipped = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(out, images)])
    kept = np.array([np.array_equal(a, b) for a, b in zip(out, images)])
    assert (flipped ^ kept).all() and 16 < flipped.sum() < 48
    np.testing.assert_array_equal(augment(Augment(flip=1.0), KEY, images), images[:, :, ::-1])


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns(turns, size):
    image = noise(size, size, 2)
    out = warp(image, rotation(jnp.float32(turns * math.pi / 2)), STILL)
    np.testing.assert_allclose(out, np.rot90(image, turns), atol=1e-5)


def test_identity_and_shift_are_exact():
    image = noise(6, 7, 1)
    np.testing.assert_array_equal(warp(image, jnp.eye(2), STILL), image)
    shifted = np.asarray(warp(image, jnp.eye(2), jnp.array([1.0, -2.0])))
    np.testing.assert_array_equal(shifted[:-1, 2:], image[1:, :-2])
    assert not shifted[-1].any() and not shifted[:, :2].any()  # from outside: black


def test_warp_is_bilinear():
    y, x = np.mgrid[:16, :16].astype(np.float32)
    plane = (0.2 + 0.02 * y + 0.01 * x)[..., None]
    out = np.asarray(warp(plane, rotation(jnp.float32(0.3)), STILL))[4:12, 4:12, 0]
    v, h = y - 7.5, x - 7.5
    seen = (math.cos(0.3) * v + math.sin(0.3) * h, -math.sin(0.3) * v + math.cos(0.3) * h)
    np.testing.assert_allclose(out, (0.2 + 0.02 * (seen[0] + 7.5) + 0.01 * (seen[1] + 7.5))[4:12, 4:12], atol=1e-6)


def test_zoom_keeps_the_centre():
    image = np.zeros((9, 9, 1), np.float32)
    image[4, 4] = 1
    out = np.asarray(augment(Augment(zoom=0.4), KEY, np.stack([image] * 16)))
    np.testing.assert_allclose(out[:, 4, 4], 1, atol=1e-6)
    assert len(np.unique(out[:, 4, 5].round(5))) > 4  # and each by its own factor


def test_crop_stays_inside():
    out = np.asarray(augment(Augment(crop=0.5), KEY, np.ones((32, 16, 12, 1), np.float32)))
    np.testing.assert_allclose(out, 1, atol=1e-5)  # no black from outside
    images = np.stack([smooth(32)] * 8)
    assert len({x.tobytes() for x in np.asarray(augment(Augment(crop=0.5), KEY, images))}) == 8


def test_brightness_range():
    images = np.full((200, 2, 2, 1), 0.5, np.float32)
    change = np.asarray(augment(Augment(brightness=0.2), KEY, images))[:, 0, 0, 0] - 0.5
    assert change.min() < -0.15 and change.max() > 0.15 and np.abs(change).max() <= 0.2 + 1e-6


def test_contrast_keeps_the_mean():
    images = 0.4 + 0.2 * noise(20, 8, 8, 3)
    out = np.asarray(augment(Augment(contrast=0.5), KEY, images))
    np.testing.assert_allclose(out.mean((1, 2)), images.mean((1, 2)), atol=1e-5)
    ratio = out.std((1, 2)) / images.std((1, 2))
    assert ratio.min() >= 0.5 - 1e-4 and ratio.max() <= 1.5 + 1e-4 and ratio.std() > 0.1


def test_jit_vmap_and_loop_give_the_same():
    images, keys = noise(3, 8, 16, 16, 1), jax.random.split(KEY, 3)
    one = functools.partial(augment, ALL)
    plain = np.stack([one(key, lane) for key, lane in zip(keys, images)])
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(keys, images), plain, atol=1e-5)
    looped = jax.lax.while_loop(lambda s: s[0] < 1, lambda s: (s[0] + 1, jax.vmap(one)(keys, s[1])), (0, images))[1]
    np.testing.assert_allclose(looped, plain, atol=1e-5)


def test_an_image_depends_on_its_place_only():
    images = noise(8, 16, 16, 1)
    np.testing.assert_allclose(augment(ALL, KEY, images)[:3], augment(ALL, KEY, images[:3]), atol=1e-6)
    same = np.asarray(augment(ALL, KEY, np.stack([images[0]] * 8)))
    assert len({x.tobytes() for x in same}) == 8


def test_stays_in_range():
    out = np.stack([augment(ALL, jax.random.key(seed), noise(8, 16, 16, 1, seed=seed)) for seed in range(12)])
    assert out.shape == (12, 8, 16, 16, 1) and out.dtype == np.float32
    assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("size", [16, 48])
def test_resize_like_pillow(size):
    image = (255 * smooth(32)).astype(np.uint8)
    out = np.asarray(preprocess(Preprocess(size=size), image[None]))[0, ..., 0]
    expected = np.asarray(Image.fromarray(image[..., 0]).resize((size, size), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(out, expected, atol=1.5 / 255)


def test_integers_become_shares():
    images = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(preprocess(Preprocess(), images).ravel(), [0, 0.2, 1], atol=1e-7)
    wide = np.array([0, 65535], np.uint16).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(preprocess(Preprocess(), wide).ravel(), [0, 1])


def test_median_against_numpy():
    images = noise(2, 7, 9, 2)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    np.testing.assert_array_equal(median(images), np.median(windows, (-2, -1)))


def test_gaussian():
    spike = np.zeros((1, 21, 21, 1), np.float32)
    spike[0, 10, 10] = 1
    out = np.asarray(blurred(spike, 1.5))[0, ..., 0]
    np.testing.assert_allclose(out[10] / out[10, 10], np.exp(-0.5 * ((np.arange(21) - 10) / 1.5) ** 2), atol=1e-6)
    np.testing.assert_allclose(blurred(np.ones((1, 8, 9, 1), np.float32), 2.0), 1, atol=1e-6)


def test_stretch_uses_the_range():
    images = 0.4 + 0.2 * noise(2, 64, 64, 1)
    out = np.asarray(preprocess(Preprocess(contrast="stretch"), images))
    low, high = np.quantile(images[0], (0.01, 0.99))
    np.testing.assert_allclose(out[0], np.clip((images[0] - low) / (high - low), 0, 1), atol=0.03)


def equalised(plane, tiles=8, clip=2.0):
    """One pixel at a time, float64."""
    height, width = plane.shape
    level = np.rint(plane * 255).astype(int)
    answers = np.zeros((tiles, tiles, 256))
    for r in range(tiles):
        for c in range(tiles):
            part = level[r * height // tiles :, c * width // tiles :][: height // tiles, : width // tiles]
            share = np.bincount(part.ravel(), minlength=256) / part.size
            cut = np.minimum(share, clip / 256)
            answers[r, c] = np.cumsum(cut + (1 - cut.sum()) / 256)
    out = np.zeros(plane.shape)
    for y in range(height):
        for x in range(width):
            v, h = (min(max((i + 0.5) * tiles / n - 0.5, 0), tiles - 1) for i, n in ((y, height), (x, width)))
            for r in range(tiles):
                for c in range(tiles):
                    out[y, x] += max(0, 1 - abs(v - r)) * max(0, 1 - abs(h - c)) * answers[r, c, level[y, x]]
    return out


def test_clahe_against_loops():
    plane = (smooth(32)[..., 0] * 255).astype(np.uint8)
    out = preprocess(Preprocess(contrast="clahe"), plane[None, ..., None])
    np.testing.assert_allclose(out[0, ..., 0], equalised(plane / 255), atol=1e-5)


def test_normalise():
    images = noise(4, 8, 8, 3)
    z = np.asarray(preprocess(Preprocess(normalise="zscore"), images))
    np.testing.assert_allclose(z.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(z.std((1, 2, 3)), 1, atol=1e-5)
    unit = np.asarray(preprocess(Preprocess(normalise="unit"), images))
    np.testing.assert_allclose((unit.min((1, 2, 3)), unit.max((1, 2, 3))), ([0] * 4, [1] * 4), atol=1e-6)


@pytest.mark.parametrize("contrast", ["none", "stretch", "clahe"])
@pytest.mark.parametrize("normalise", ["none", "unit", "zscore"])
def test_flat_images_stay_finite(contrast, normalise):
    config = Preprocess(contrast=contrast, normalise=normalise)
    assert np.isfinite(preprocess(config, np.full((1, 16, 16, 1), 0.7, np.float32))).all()


def test_training_images_are_what_evaluation_sees_when_off():
    config = Preprocess(size=12, denoise="median", contrast="stretch", normalise="zscore")
    images = (255 * noise(2, 16, 20, 1)).astype(np.uint8)
    np.testing.assert_array_equal(training_images(config, Augment(), KEY, images), preprocess(config, images))
    assert training_images(config, ALL, KEY, images).shape == (2, 12, 12, 1)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (Augment, {"flip": -0.1}),
        (Augment, {"flip": 1.1}),
        (Augment, {"zoom": 1.0}),
        (Augment, {"crop": 1.0}),
        (Augment, {"rotate_deg": math.nan}),
        (Augment, {"rotate_deg": 270}),
        (Augment, {"brightness": -1}),
        (Preprocess, {"size": 0}),
        (Preprocess, {"denoise": math.inf}),
        (Preprocess, {"denoise": -1.0}),
        (Preprocess, {"contrast": "more"}),
        (Preprocess, {"normalise": "minmax"}),
    ],
)
def test_nonsense_is_refused(config, settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        config(**settings)
