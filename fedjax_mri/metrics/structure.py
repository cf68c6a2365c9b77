"""Fixed filters for the structures of a head, phi(x) = conv(x, W); each has a name, and none is learnt.

The neuro-symbolic term of system A compares their responses before and after translation; the encoder of
`metrics.distance` pools them. Sizes are in mm in the head and become pixels by the image's pixel size, so a ventricle
is one at 64 pixels as at 256. Every kernel weighs a bright part against a dark one, each with weights of sum 1: a
response is the difference of two local means, in the image's units, and nothing where the image is flat. CT and MR may
show a structure with opposite signs; the responses then have opposite signs too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

FIELD_OF_VIEW = 230.0  # mm across an image whose pixel size is not known
MIN_SIGMA = 0.7  # pixels; a Gaussian narrower than this is not seen by its samples
VENTRICLE, EDGE, RIDGE = 5.0, 3.0, 3.0  # mm, standard deviations


def pixel_size(image: jax.Array) -> float:
    """Returns the millimetres per pixel of [B, H, W, C] if a head fills its width as usual."""
    return FIELD_OF_VIEW / image.shape[2]


@functools.cache
def filters(pixel: float) -> dict[str, np.ndarray]:
    """Returns name -> kernel of each filter, float32 [k, k] with k odd, for pixels of that many mm.

    `ventricle`: centre against surround, for a blob of the width of a lateral ventricle. `edge`: one side against the
    other, along x and along y. `ridge`: a line against its two sides, at 0 (along x), 45, 90 and 135 degrees: horns,
    sulci, falx and vault.
    """
    kernels = {"ventricle": centre_surround(max(VENTRICLE / pixel, MIN_SIGMA))}
    kernels |= {f"edge {degrees}": edge(max(EDGE / pixel, MIN_SIGMA), degrees) for degrees in (0, 90)}
    kernels |= {f"ridge {degrees}": ridge(max(RIDGE / pixel, MIN_SIGMA), degrees) for degrees in (0, 45, 90, 135)}
    return kernels


def responses(x: jax.Array, pixel: float | None = None) -> jax.Array:
    """Returns the responses phi(x) of all filters, [B, H, W, F] from [B, H, W, 1], in the order of `filters`.

    The border is repeated outwards.

    pixel in mm; None: as `pixel_size` has it.
    """
    kernels = list(filters(pixel_size(x) if pixel is None else pixel).values())
    side = max(map(len, kernels))
    pads = [(side - len(kernel)) // 2 for kernel in kernels]
    bank = np.stack([np.pad(kernel, pad) for kernel, pad in zip(kernels, pads)], -1)[:, :, None]
    reach = side // 2
    x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, jnp.asarray(bank), (1, 1), "VALID", dimension_numbers=layout, precision="highest"
    )


def centre_surround(sd: float) -> np.ndarray:
    """Returns the negated Laplacian of a Gaussian of `sd` pixels: responds most to a bright disc of radius 1.4 sd."""
    x, y = _grid(sd)
    square = (x**2 + y**2) / sd**2
    return _contrast((2 - square) * np.exp(-square / 2))


def edge(sd: float, degrees: float) -> np.ndarray:
    """Returns the derivative of a Gaussian along `degrees` from the x axis.

    It is positive where the image brightens that way.
    """
    along, across = _turned(sd, degrees)
    return _contrast(along * np.exp(-(along**2 + across**2) / 2))


def ridge(sd: float, degrees: float) -> np.ndarray:
    """Returns the negated second derivative of a Gaussian across a line at `degrees`.

    The kernel is twice as long as wide and responds to bright lines.
    """
    along, across = _turned(sd, degrees)
    return _contrast((1 - across**2) * np.exp(-((along / 2) ** 2 + across**2) / 2))


def _grid(sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixel offsets, x to the right and y down, over four standard deviations."""
    line = np.arange(-np.ceil(4 * sd), np.ceil(4 * sd) + 1)
    return line[None, :], line[:, None]


def _turned(sd: float, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns offsets along and across a direction, in standard deviations."""
    (x, y), angle = _grid(sd), np.deg2rad(degrees)
    return (np.cos(angle) * x + np.sin(angle) * y) / sd, (np.cos(angle) * y - np.sin(angle) * x) / sd


def _contrast(kernel: np.ndarray) -> np.ndarray:
    """Returns the kernel scaled so that its positive weights sum to 1 and its negative ones to -1."""
    bright, dark = np.maximum(kernel, 0), np.maximum(-kernel, 0)
    return (bright / bright.sum() - dark / dark.sum()).astype(np.float32)
