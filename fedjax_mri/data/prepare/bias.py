"""The field of an MR's coil, found and divided out (after N4: Tustison et al. 2010, doi 10.1109/TMI.2010.2046908).

In the logarithm the field is a slow addition, which blurs the histogram. Each round sharpens the histogram by a Wiener
filter, takes from every voxel the intensity that it would have in the sharp one, and fits the rest by slow functions.
Here these are cosines, first few, then more; N4 has B-splines.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

BINS, WIDTH, NOISE = 200, 0.15, 0.01  # of the histogram; full width at half maximum of the blur in logs; Wiener's noise
WAVES = (2, 3, 4)  # cosines along each side, from level to level
ROUNDS = 25  # of each level
VOXELS = 20_000  # about as many of the head are looked at


def correct_bias(image: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns an MR of any scale without its coil's field, and the field, whose mean log in the head is 0.

    The MR is [H, W] or [D, H, W].

    `head` is a mask, of the brain or of the whole head. An image with nothing in the mask comes back as it is.
    """
    head = head & (image > 0)
    if head.sum() < BINS:
        return image, np.ones_like(image)
    places = np.argwhere(head)
    places = places[:: max(1, len(places) // VOXELS)]
    places = np.resize(places, (VOXELS, image.ndim))  # one size, and so one program; repeats weigh a little more
    logs = np.log(image[tuple(places.T)].astype(np.float32))
    share = (places + 0.5) / image.shape
    weights = np.asarray(slow_part(jnp.asarray(logs), jnp.asarray(share, jnp.float32)))
    sides = [np.cos(np.pi * np.arange(max(WAVES)) * (np.arange(size)[:, None] + 0.5) / size) for size in image.shape]
    field = weights.reshape((max(WAVES),) * image.ndim)
    for side in sides:
        field = np.tensordot(field, side, (0, 1))
    field = np.exp(field - field[head].mean()).astype(np.float32)
    return image / field, field


@jax.jit
def slow_part(logs: jax.Array, share: jax.Array) -> jax.Array:
    """Returns the weights [max(WAVES)^n] of the cosines that make up the field in logs [N].

    share [N, n] of each side.
    """
    field, weights = jnp.zeros_like(logs), jnp.zeros(max(WAVES) ** share.shape[1])
    for most in WAVES:
        basis, fit = cosines(share, most)

        def round(
            state: tuple[jax.Array, jax.Array], _, basis=basis, fit=fit
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            field, weights = state
            change = fit @ (logs - field - sharpened(logs - field))
            return (field + basis @ change, weights + change), None

        (field, weights), _ = jax.lax.scan(round, (field, weights), length=ROUNDS)
    return weights


def cosines(share: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Returns the slowest cosines at places [N, n], [N, max(WAVES)^n], 0 beyond `most` a side; and their fit."""
    waves = jnp.arange(max(WAVES), dtype=jnp.float32)[None, None]
    sides = jnp.where(waves < most, jnp.cos(jnp.pi * waves * share[..., None]), 0.0)  # [N, n, W]
    basis = sides[:, 0]
    for axis in range(1, share.shape[1]):
        basis = (basis[:, :, None] * sides[:, axis, None, :]).reshape(len(share), -1)
    ridge = 1e-3 * len(share) * jnp.eye(basis.shape[1])  # lest corners without head swing
    return basis, jnp.linalg.solve(basis.T @ basis + ridge, basis.T)


def sharpened(logs: jax.Array) -> jax.Array:
    """Returns what the logs [N] are expected to have been before the field blurred their histogram."""
    low, high = logs.min(), logs.max()
    step = jnp.maximum(high - low, 1e-3) / (BINS - 1)
    place = (logs - low) / step
    left = jnp.clip(place.astype(jnp.int32), 0, BINS - 2)
    part = place - left.astype(jnp.float32)
    counts = jnp.zeros(2 * BINS).at[left].add(1 - part).at[left + 1].add(part)
    bins = jnp.arange(2 * BINS, dtype=jnp.float32)
    distance = jnp.minimum(bins, 2 * BINS - bins) * step
    blur = jnp.exp(-4 * np.log(2) * (distance / WIDTH) ** 2)
    blur = jnp.fft.rfft(blur / blur.sum())
    wiener = jnp.conj(blur) / (jnp.abs(blur) ** 2 + NOISE).astype(blur.dtype)
    smooth = partial(jnp.fft.irfft, n=2 * BINS)
    sharp = jnp.maximum(smooth(jnp.fft.rfft(counts) * wiener), 0)
    values = low + step * bins
    total = smooth(jnp.fft.rfft(sharp) * blur)
    expected = smooth(jnp.fft.rfft(sharp * (values - low)) * blur) / jnp.maximum(total, 1e-6) + low
    expected = jnp.where(total > 1e-4 * counts.max(), expected, values)
    return expected[left] * (1 - part) + expected[left + 1] * part
