"""Preprocessing and augmentation of images, on the device and inside the compiled training step.

Evaluation sees `preprocess(config, images)`, training `training_images(config, augmentation, key, images)`: the same
steps with the augmentation before the normalisation, where images are still in 0..1 and black is 0. Both take volumes
too: slices are treated as channels, so that all slices of a volume are changed alike.
"""

import math
from dataclasses import astuple, dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import fields, keys
from fedjax_mri.core.errors import UserError

TILES = 8  # CLAHE: tiles a side
CLIP = 2.0  # CLAHE: a level's count in a tile, at most, over the mean count
LEVELS = 256  # grey levels of a histogram
TAILS = 0.01  # share of pixels that a contrast stretch lets saturate at either end

FLIP, ROTATE, ZOOM, SIDE, PLACE, BRIGHTNESS, CONTRAST = range(7)  # purposes of an image's random numbers


@dataclass(frozen=True)
class Preprocess:
    """What every image goes through, in training and evaluation alike, in this order. Raises UserError on bad settings.

    Normalisation is per image, so `unit` and `zscore` undo a change of brightness but for what it clips.
    """

    size: int | None = None  # side in pixels, whatever the shape was; None leaves it
    denoise: float | Literal["median"] = 0.0  # sigma of a Gaussian in pixels, or the 3 x 3 median
    contrast: Literal["none", "stretch", "clahe"] = "none"  # 1st..99th percentile to 0..1; or tile by tile
    normalise: Literal["none", "unit", "zscore"] = "none"  # 0..1 as read; least and greatest to 0, 1; mean 0, std 1

    def __post_init__(self) -> None:
        fields.check(self, "preprocess.")
        if self.size is not None and self.size < 1:
            raise UserError(f"size is {self.size}: give the side in pixels, such as 224, or None to leave it.")
        if self.denoise != "median":
            _check("denoise", self.denoise, math.inf)


@dataclass(frozen=True)
class Augment:
    """Random changes, drawn for each image by itself; 0 turns one off. Raises UserError on bad settings."""

    flip: float = 0.0  # probability of left-right
    rotate_deg: float = 0.0  # angle in +- this
    zoom: float = 0.0  # magnification in 1 +- this
    crop: float = 0.0  # a window whose side is shorter by up to this share, anywhere, resized back
    brightness: float = 0.0  # added, in +- this
    contrast: float = 0.0  # factor about each channel's mean in 1 +- this

    def __post_init__(self) -> None:
        fields.check(self, "augment.")
        _check("flip", self.flip, 1.0)
        _check("rotate_deg", self.rotate_deg, 180.0)
        _check("brightness", self.brightness, 1.0)
        _check("contrast", self.contrast, 1.0)
        for name in ("zoom", "crop"):
            _check(name, getattr(self, name), math.nextafter(1.0, 0.0), "less than 1")


def _check(name: str, value: float, most: float, words: str = "") -> None:
    if not 0 <= value <= most or math.isinf(value):
        limit = words or ("finite" if math.isinf(most) else f"at most {most:g}")
        raise UserError(f"{name} is {value!r}: give a number that is 0 (off) or more, and {limit}.")


def preprocess(config: Preprocess, images: jax.Array) -> jax.Array:
    """Returns the network's input from images as read: integers or float 0..1 [B, H, W, C] -> float32 [B, S, S, C].

    Of volumes [B, D, H, W, C] it gives [B, D, S, S, C].
    """
    prepared = normalised(config, enhanced(config, slices_to_channels(images)))
    return channels_to_slices(prepared, images.shape)


def training_images(config: Preprocess, augmentation: Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns images as `preprocess` does, augmented on the way; key typed, one for the batch."""
    augmented = augment(augmentation, key, enhanced(config, slices_to_channels(images)))
    return channels_to_slices(normalised(config, augmented), images.shape)


def prepared_shape(config: Preprocess, image: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of what `preprocess` makes of an image [H, W, C] or a volume [D, H, W, C]."""
    return image if config.size is None else (*image[:-3], config.size, config.size, image[-1])


def slices_to_channels(x: jax.Array) -> jax.Array:
    """Returns volumes [B, D, H, W, C] as images [B, H, W, D C], and images as they are."""
    return x if x.ndim == 4 else jnp.moveaxis(x, 1, 3).reshape(x.shape[0], *x.shape[2:4], -1)


def channels_to_slices(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the inverse of `slices_to_channels`, for volumes that had that shape [B, D, ..., C].

    Sides may have changed.
    """
    return x if len(shape) == 4 else jnp.moveaxis(x.reshape(*x.shape[:3], shape[1], shape[-1]), 3, 1)


def middle_slices(x: jax.Array) -> jax.Array:
    """Returns the middle slices [B, H, W, C] of volumes [B, D, H, W, C], and all else as it is."""
    return x[:, x.shape[1] // 2] if x.ndim == 5 else x


def enhanced(config: Preprocess, images: jax.Array) -> jax.Array:
    """Returns images scaled, resized, denoised and with contrast enhanced.

    They are float32 0..1 [B, S, S, C], from [B, H, W, C].
    """
    images = _resized(config.size, scaled(images))
    images = median(images) if config.denoise == "median" else blurred(images, float(config.denoise))
    steps = {"none": lambda plane: plane, "stretch": _stretched, "clahe": _equalised}
    return images if config.contrast == "none" else _by_plane(steps[config.contrast], images)


def normalised(config: Preprocess, images: jax.Array) -> jax.Array:
    """Returns images [B, H, W, C], each normalised by its own statistics over all channels; a flat image becomes 0."""
    if config.normalise == "none":
        return images
    if config.normalise == "unit":
        low, high = (f(images, (1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
        return (images - low) / jnp.where(high > low, high - low, 1.0)
    centred = images - images.mean((1, 2, 3), keepdims=True)
    std = jnp.sqrt((centred**2).mean((1, 2, 3), keepdims=True))
    return centred / jnp.where(std > 1e-6, std, 1.0)


def scaled(images: jax.Array) -> jax.Array:
    """Returns images [B, ...] as float32: integers divided by the largest of their type, floats unchanged."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / jnp.iinfo(images.dtype).max
    return images.astype(jnp.float32)


def _resized(size: int | None, images: jax.Array) -> jax.Array:
    batch, *shape, channels = images.shape
    if size is None or shape == [size, size]:
        return images
    return jax.image.resize(images, (batch, size, size, channels), "linear", antialias=True)


def blurred(images: jax.Array, sigma: float) -> jax.Array:
    """Returns images [B, H, W, C] blurred by a Gaussian of sigma pixels. Weights are renormalised at the border."""
    if sigma == 0:
        return images
    # Two small matrix products: convolutions inside loops are slow on some devices.
    rows, columns = (_gaussian(size, sigma) for size in images.shape[1:3])
    return jnp.einsum("yh,xw,bhwc->byxc", rows, columns, images, precision="highest")


def _gaussian(size: int, sigma: float) -> np.ndarray:
    """Returns a matrix [size, size] whose row i holds the weights of output pixel i."""
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def median(images: jax.Array) -> jax.Array:
    """Returns the median of each 3 x 3 neighbourhood, [B, H, W, C], the border repeated outwards.

    The middle of nine is the median of the greatest column minimum, the median column median and the least column
    maximum (Smith 1996): a dozen minima and maxima instead of a sort.
    """
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    columns = _sorted(*(padded[:, i : i + height] for i in range(3)))
    low, middle, high = (_sorted(*(x[:, :, i : i + width] for i in range(3))) for x in columns)
    return _sorted(low[2], middle[1], high[0])[1]


def _sorted(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    a, b = jnp.minimum(a, b), jnp.maximum(a, b)
    b, c = jnp.minimum(b, c), jnp.maximum(b, c)
    return jnp.minimum(a, b), jnp.maximum(a, b), c


def _by_plane(function, images: jax.Array) -> jax.Array:
    """Returns the result of a function [H, W] -> [H, W] on every channel of every image, [B, H, W, C]."""
    return jax.vmap(jax.vmap(function, -1, -1))(images)


def _levels(plane: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(plane * (LEVELS - 1)), 0, LEVELS - 1).astype(jnp.int32)


def _histograms(levels: jax.Array, tile: np.ndarray, tiles: int) -> jax.Array:
    """Returns the share of each tile's pixels by level, [tiles, LEVELS]; levels and tile int32 [H, W]."""
    counts = jnp.zeros((tiles * LEVELS,)).at[tile * LEVELS + levels].add(1.0)
    area = np.bincount(tile.ravel(), minlength=tiles).astype(np.float32)
    return counts.reshape(tiles, LEVELS) / area[:, None]


def _stretched(plane: jax.Array) -> jax.Array:
    """Returns a plane [H, W] whose 1st to 99th percentile, found to a grey level, is stretched to 0..1."""
    below = jnp.cumsum(_histograms(_levels(plane), np.zeros(plane.shape, np.int32), 1)[0])
    low, high = (jnp.argmax(below >= share).astype(jnp.float32) / (LEVELS - 1) for share in (TAILS, 1 - TAILS))
    return jnp.clip((plane - low) / jnp.maximum(high - low, 1 / (LEVELS - 1)), 0.0, 1.0)


def _equalised(plane: jax.Array) -> jax.Array:
    """Returns a plane [H, W] after contrast-limited adaptive histogram equalisation.

    Each tile equalises by its own clipped histogram; a pixel blends the answers of the four tiles around it (Zuiderveld
    1994, Graphics Gems IV).
    """
    tiles, levels = min(TILES, *plane.shape), _levels(plane)
    (row, up, down, v), (column, left, right, h) = (_tiling(size, tiles) for size in plane.shape)
    shares = _histograms(levels, row[:, None] * tiles + column, tiles**2)
    clipped = jnp.minimum(shares, CLIP / LEVELS)
    answers = jnp.cumsum(clipped + (1 - clipped.sum(1, keepdims=True)) / LEVELS, 1)

    def ask(row: np.ndarray, column: np.ndarray) -> jax.Array:
        return answers[row[:, None] * tiles + column, levels]

    v, h = v[:, None], h[None, :]
    upper, lower = (ask(row, left) * (1 - h) + ask(row, right) * h for row in (up, down))
    return upper * (1 - v) + lower * v


def _tiling(size: int, tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns what `_equalised` needs of each pixel along a side, [size] each.

    That is its tile, the tile centres before and after it, and its position between these.
    """
    position = (np.arange(size) + 0.5) * tiles / size
    between = np.clip(position - 0.5, 0, tiles - 1)
    before, after = np.floor(between), np.ceil(between)
    whole = (position.astype(np.int32), before.astype(np.int32), after.astype(np.int32))
    return *whole, (between - before).astype(np.float32)


def augment(config: Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns each image changed at random, by its place in the batch; float32 0..1 [B, H, W, C], key typed.

    What comes from outside an image is black. With everything off the images come back as they are.
    """
    if not any(astuple(config)):
        return images
    return jax.vmap(partial(_augmented, config))(keys.fold_in_each(key, jnp.arange(images.shape[0])), images)


def _augmented(config: Augment, key: jax.Array, image: jax.Array) -> jax.Array:
    import dm_pix as pix  # here, so that the core does without it

    # Tone before geometry: the mean is the image's own, and black from outside stays black.
    if config.contrast:
        image = pix.adjust_contrast(image, 1.0 + _draw(key, CONTRAST, config.contrast))
    if config.brightness:
        image = pix.adjust_brightness(image, _draw(key, BRIGHTNESS, config.brightness))
    if config.flip:
        image = pix.random_flip_left_right(jax.random.fold_in(key, FLIP), image, probability=config.flip)
    image = jnp.clip(image, 0.0, 1.0)
    moves = config.rotate_deg or config.zoom or config.crop
    return warp(image, *_view(config, key, image.shape[:2])) if moves else image


def _draw(key: jax.Array, purpose: int, most: float, shape: tuple[int, ...] = ()) -> jax.Array:
    """Returns a uniform random number between -most and most."""
    return jax.random.uniform(jax.random.fold_in(key, purpose), shape, minval=-most, maxval=most)


def _view(config: Augment, key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns crop, zoom and rotation as the one affine map that `warp` takes: matrix [2, 2], offset [2]."""
    angle = jnp.deg2rad(_draw(key, ROTATE, config.rotate_deg))
    side = 1.0 - jnp.abs(_draw(key, SIDE, config.crop))
    room = (1.0 - side) * (jnp.array(shape, jnp.float32) - 1)  # between pixel centres, or black would leak in
    place = _draw(key, PLACE, 0.5, (2,)) * room
    turn = rotation(angle) / (1.0 + _draw(key, ZOOM, config.zoom))
    return turn * side, (turn * place[None, :]).sum(1)


def rotation(angle: jax.Array) -> jax.Array:
    """Returns the matrix [2, 2] with which `warp` turns an image counter-clockwise; angle in radians."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[cos, sin], [-sin, cos]])


def warp(image: jax.Array, matrix: jax.Array, offset: jax.Array) -> jax.Array:
    """Returns the image [H, W, C] seen through an affine map, bilinear, black outside.

    The output at p shows the input at matrix @ p + offset, both (row, column) in pixels from the centre; matrix [2, 2],
    offset [2]. One resampling whatever the map: shears and their like would blur more and, as gathers are cheap, gain
    nothing.
    """
    rows, columns = (jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2 for size in image.shape[:2])
    # Products and sums rather than `@`: the matrix units of some devices would round positions to a tenth of a pixel.
    sources = [m[0] * rows[:, None] + m[1] * columns[None, :] + o for m, o in zip(matrix, offset)]
    places = [s + (size - 1) / 2 for s, size in zip(sources, image.shape)]
    sample = partial(jax.scipy.ndimage.map_coordinates, coordinates=places, order=1, mode="constant")
    return jax.vmap(sample, -1, -1)(image)
