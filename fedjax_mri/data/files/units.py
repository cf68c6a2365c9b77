"""From a file's units to those the model was trained in, and bounds for what it makes.

CT: HU. A display picture, in 0..1, is read as the run's window; of a run without a window, as it is.
MR: magnitude of any scale is brought to 0..1, slice by slice, as the phantom's is; a display picture for a run without
a window, which was trained on such pictures, is taken as it is.
"""

import jax
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.scan import Conversion, Scan
from fedjax_mri.data.phantom.scanner import show_mr

AIR = -1000.0  # HU
LEAST = -1024.0  # HU; what lies below is padding outside of the scanner's field
_show_mr = jax.jit(show_mr)


def check_units(scan: Scan, conversion: Conversion) -> None:
    """Raises UserError on HU for a model that knows none."""
    if conversion.source == "ct" and conversion.window is None and scan.units != "display":
        raise UserError("in HU, and the run knows CT only as display pictures: give PNG or JPEG, or another run")


def background(displayed: bool, conversion: Conversion) -> float:
    """The value of what is around a slice, in the file's units."""
    return AIR if conversion.source == "ct" and not displayed else 0.0


def to_model(image: np.ndarray, displayed: bool, conversion: Conversion) -> np.ndarray:
    """A slice [H, W] brought from the file's units to the model's."""
    if displayed and conversion.window is None:
        return image
    if conversion.source == "mr":
        return magnitude(image)
    if not displayed:
        return np.maximum(image, np.float32(LEAST))
    assert conversion.window is not None
    low, high = (np.float32(edge) for edge in conversion.window)
    return low + image * (high - low)


def magnitude(image: np.ndarray) -> np.ndarray:
    """An MR slice [H, W] of any scale brought to 0..1; an empty slice stays empty."""
    image = np.maximum(image, np.float32(0))
    return np.asarray(_show_mr(image)) if image.any() else image


def within_bounds(values: np.ndarray, conversion: Conversion) -> np.ndarray:
    """A model's values, clipped to what its units and int16 can hold."""
    return np.clip(values, *((LEAST, 32767.0) if conversion.hounsfield else (0.0, 1.0)))
