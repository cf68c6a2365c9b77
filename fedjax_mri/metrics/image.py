"""How close an image is to the true one, one figure per image.

Images are float32 [B, H, W, C], or volumes [B, D, H, W, C]; figures are [B]. A mask of the same rank (channels 1 or C;
0 is outside) leaves pixels out, and an image without any pixel left is nan. Papers differ in their windows, ranges and
masks, so PSNR and SSIM take a `Preset` and are to be named with it. All works under `jit`, `vmap` and, but for
`mutual_information`, `grad`: a loss is one minus the figure.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.metrics.ratio import ratio
from fedjax_mri.metrics.window import average, gaussian, halved, uniform, windows

MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # fine to coarse (Wang et al. 2003, section 3.2)


class Preset(NamedTuple):
    """One convention of PSNR and SSIM. The windows counted are those that lie within the image, whatever the preset."""

    name: str  # to be said with the figure
    low: float = 0.0  # of the range of values, in the image's units
    high: float = 1.0
    size: int = 11  # of the window, pixels along each axis
    sd: float | None = 1.5  # pixels, of a Gaussian window; None: uniform
    axes: int = 2  # of the window: 2 for images, 3 for volumes
    sample: bool = False  # covariance over n - 1 instead of n
    clip: bool = False  # values beyond the range are brought to its ends first; otherwise they are refused
    fill: float | None = None  # what stands outside the mask; None: what the image has there
    k1: float = 0.01  # stabilise luminance and contrast where the image is dark or flat
    k2: float = 0.03

    @property
    def range(self) -> float:
        """Span of the values, in the image's units."""
        return self.high - self.low


# Wang et al. 2004; also scikit-image with gaussian_weights=True and use_sample_covariance=False, and dm-pix.
WANG = Preset("Wang 2004: Gaussian 11, 0 to 1")
# scikit-image as it comes
SKIMAGE = Preset("scikit-image: uniform 7, sample covariance, 0 to 1", size=7, sd=None, sample=True)
# system E, whose images are scaled to 0..1 before they are compared, in Wang's window
UNIT = Preset("unit: Gaussian 11, scaled to 0 to 1")
# Thummerer et al. 2023, for CT volumes in HU. Its MAE is `mae` with the mask, unclipped.
SYNTHRAD2023 = Preset(
    "SynthRAD2023: uniform 7x7x7, sample covariance, clipped to -1024 to 3000 HU, mean over the mask",
    low=-1024.0,
    high=3000.0,
    size=7,
    sd=None,
    axes=3,
    sample=True,
    clip=True,
    fill=-1024.0,
)
# The same on single slices; its figures are not the challenge's.
SYNTHRAD2023_SLICES = SYNTHRAD2023._replace(
    name="SynthRAD2023 slice by slice: uniform 7x7, sample covariance, clipped to -1024 to 3000 HU, mean over the mask",
    axes=2,
)


def mae(x: jax.Array, y: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the mean absolute error in the images' units, [B]."""
    return _mean(jnp.abs(x - y), mask)


def mse(x: jax.Array, y: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the mean squared error, [B]."""
    return _mean(jnp.square(x - y), mask)


def rmse(x: jax.Array, y: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the root of the mean squared error in the images' units, [B]; as a loss take `mse`."""
    return jnp.sqrt(mse(x, y, mask))


def psnr(x: jax.Array, y: jax.Array, preset: Preset, mask: jax.Array | None = None) -> jax.Array:
    """Returns the peak signal to noise ratio in dB, [B]; infinite for equal images. Raises UserError as `ssim` does."""
    x, y = _prepared(x, preset, mask), _prepared(y, preset, mask)
    return np.float32(20 * np.log10(preset.range)) - 10 * jnp.log10(mse(x, y, mask))


def ncc(x: jax.Array, y: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the normalised cross-correlation (Pearson), [B]; nan for a constant image."""
    x, y = (image - _spread(_mean(image, mask), image) for image in (x, y))
    return cosine(x, y, mask)


def cosine(x: jax.Array, y: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the cosine of the angle between the images as vectors, [B]; nan for a black one."""
    return ratio(_mean(x * y, mask), jnp.sqrt(_mean(x * x, mask) * _mean(y * y, mask)))


def mutual_information(
    x: jax.Array,
    y: jax.Array,
    ranges: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 1.0), (0.0, 1.0)),
    bins: int = 64,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Returns the mutual information of two images in nats, [B].

    It is that of the joint histogram of `bins` x `bins` equal cells over the two `ranges`.

    x and y may have different units, as CT and MR do; values beyond a range count in its last cell. No gradient. It
    rises with the number of bins and falls with that of pixels: say both.
    """
    weight = jnp.broadcast_to(jnp.float32(1) if mask is None else mask, x.shape).reshape(len(x), -1)
    cells = [_cells(image, *limits, bins).reshape(len(x), -1) for image, limits in zip((x, y), ranges)]
    count = jax.vmap(lambda cell, w: jnp.zeros(bins * bins, jnp.float32).at[cell].add(w))
    joint = count(cells[0] * bins + cells[1], weight).reshape(-1, bins, bins)
    p = ratio(joint, joint.sum((1, 2), keepdims=True))
    independent = p.sum(1, keepdims=True) * p.sum(2, keepdims=True)
    return jnp.where(p == 0, 0.0, p * jnp.log(jnp.where(p == 0, 1.0, p / independent))).sum((1, 2))


def ssim(x: jax.Array, y: jax.Array, preset: Preset, mask: jax.Array | None = None) -> jax.Array:
    """Returns the structural similarity, [B] (Wang et al. 2004).

    It is the mean over channels and over the windows centred in the mask.

    Raises UserError for images of another rank than the preset's, smaller than its window, or, where values are known
    (outside jit), beyond its range, such as those of a tanh.
    """
    luminance, contrast = _similarity(_prepared(x, preset, mask), _prepared(y, preset, mask), preset)
    return _mean(luminance * contrast, _centres(mask, preset))


def ms_ssim(x: jax.Array, y: jax.Array, preset: Preset, mask: jax.Array | None = None) -> jax.Array:
    """Returns the SSIM over five scales, each half the size of the one before, [B] (Wang et al. 2003).

    The product of the mean contrast term of each scale but the coarsest, and the SSIM of that, to the power of
    MS_WEIGHTS. Sizes are halved by 2 x 2 means; an odd last row or column is dropped. Where the image is smaller than
    the window at a coarse scale (Wang's needs 176 pixels for five), that scale is left out and the weights divided by
    their sum: 128 pixels give four scales, 64 three, and the figures do not compare. A negative term counts as 0.
    Raises UserError as `ssim` does.
    """
    x, y = _prepared(x, preset, mask), _prepared(y, preset, mask)
    weights = np.asarray(MS_WEIGHTS[: scales(x.shape, preset)], np.float32)
    figure = jnp.ones(len(x), jnp.float32)
    for scale, weight in enumerate(weights / weights.sum()):
        luminance, contrast = _similarity(x, y, preset)
        term = luminance * contrast if scale == len(weights) - 1 else contrast
        figure = figure * _power(_mean(term, _centres(mask, preset)), weight)
        x, y = halved(x, preset.axes), halved(y, preset.axes)
        mask = mask if mask is None else halved(mask, preset.axes)
    return figure


def scales(shape: tuple[int, ...], preset: Preset) -> int:
    """Returns how many of the five scales of `ms_ssim` hold a window, for images of that shape."""
    least = min(shape[1 : 1 + preset.axes])
    return sum(least >> scale >= preset.size for scale in range(len(MS_WEIGHTS)))


def check_range(x: jax.Array, low: float, high: float, name: str) -> None:
    """Raises UserError unless `x` lies within low..high, to a thousandth of it; on the host, outside jit."""
    values = np.asarray(x)  # as NumPy, for JAX would trace it with what is being traced around it
    slack, least, most = 1e-3 * (high - low), float(values.min()), float(values.max())
    if not (low - slack <= least and most <= high + slack):
        raise UserError(
            f"{name} has values from {least:.4g} to {most:.4g}, the measure takes {low:g} to {high:g}: map it there "
            "first, (x + 1) / 2 for the output of a tanh"
        )


class _WindowMoments(NamedTuple):
    """Means, variances and covariance of two images in a window, each [B, H', W', C]."""

    x: jax.Array
    y: jax.Array
    xx: jax.Array
    yy: jax.Array
    xy: jax.Array


def _window_moments(x: jax.Array, y: jax.Array, preset: Preset) -> _WindowMoments:
    """Returns the moments over windows within the image, one axis after the other, by the law of total variance.

    Deviations from the window's own mean are squared, never the values: on bright flat images the difference of two
    large squares would leave float32 no digits.
    """
    weights = uniform(preset.size) if preset.sd is None else gaussian(preset.size, preset.sd)
    m = _WindowMoments(x, y, *[jnp.zeros_like(x)] * 3)
    for axis in range(1, 1 + preset.axes):
        part = _WindowMoments(*(windows(field, preset.size, axis) for field in m))
        mean_x, mean_y = average(weights, part.x), average(weights, part.y)
        dx, dy = part.x - mean_x[None], part.y - mean_y[None]
        within = (part.xx + dx * dx, part.yy + dy * dy, part.xy + dx * dy)
        m = _WindowMoments(mean_x, mean_y, *(average(weights, field) for field in within))
    return m


def _similarity(x: jax.Array, y: jax.Array, preset: Preset) -> tuple[jax.Array, jax.Array]:
    """Returns the luminance term, and contrast and structure as one, of every window.

    Equations 6 and 13 of Wang et al. 2004.
    """
    m = _window_moments(x - preset.low, y - preset.low, preset)
    n = preset.size**preset.axes
    correction = n / (n - 1) if preset.sample else 1.0
    c1, c2 = (preset.k1 * preset.range) ** 2, (preset.k2 * preset.range) ** 2
    luminance = (2 * m.x * m.y + c1) / (m.x * m.x + m.y * m.y + c1)
    contrast = (2 * correction * m.xy + c2) / (correction * (m.xx + m.yy) + c2)
    return luminance, contrast


def _prepared(x: jax.Array, preset: Preset, mask: jax.Array | None) -> jax.Array:
    """Returns the image checked, clipped and filled as the preset says."""
    x = jnp.asarray(x)
    if x.ndim != preset.axes + 2:
        shape = "[B, D, H, W, C]" if preset.axes == 3 else "[B, H, W, C]"
        raise UserError(f"an image of shape {x.shape}: the preset {preset.name!r} takes {shape}")
    if min(x.shape[1:-1]) < preset.size:
        raise UserError(f"an image of shape {x.shape} is smaller than the window of {preset.size} pixels: resize it")
    if preset.clip:
        x = jnp.clip(x, preset.low, preset.high)
    elif is_concrete(x):
        check_range(x, preset.low, preset.high, "an image")
    return x if mask is None or preset.fill is None else jnp.where(mask > 0, x, jnp.float32(preset.fill))


def _centres(mask: jax.Array | None, preset: Preset) -> jax.Array | None:
    """Returns the mask at the centres of the windows that lie within the image."""
    for axis in range(1, 1 + preset.axes):
        mask = mask if mask is None else windows(mask, preset.size, axis)[(preset.size - 1) // 2]
    return mask


def _power(base: jax.Array, exponent: np.float32) -> jax.Array:
    # A power of 0 has no finite slope, and that of a negative number is nan.
    some = base > 0
    return jnp.where(some, jnp.where(some, base, 1.0) ** exponent, jnp.where(jnp.isnan(base), jnp.nan, 0.0))


def _mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the mean over all axes but the first, weighted by the mask.

    It is taken in two passes, because one float32 sum over a large image loses two digits.
    """
    first = jax.lax.stop_gradient(_mean_once(values, mask))
    return first + _mean_once(values - _spread(first, values), mask)


def _mean_once(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    axes = tuple(range(1, values.ndim))
    if mask is None:
        return values.mean(axes)
    mask = jnp.broadcast_to(mask.astype(values.dtype), values.shape)
    return ratio(jnp.where(mask > 0, values * mask, 0.0).sum(axes), mask.sum(axes))


def _spread(figure: jax.Array, like: jax.Array) -> jax.Array:
    return figure.reshape(-1, *[1] * (like.ndim - 1))


def _cells(x: jax.Array, low: float, high: float, bins: int) -> jax.Array:
    """Returns the index of the histogram cell, int32."""
    return jnp.clip(jnp.floor((x - low) * (bins / (high - low))), 0, bins - 1).astype(jnp.int32)
