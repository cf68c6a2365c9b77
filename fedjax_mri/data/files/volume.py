"""Volumes that are stored as one array after a header: what their readers and writers have in common."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.orientation import Turn
from fedjax_mri.data.files.scan import Conversion, Limits, check_bytes

USUAL = (0.005, 50.0)  # mm from voxel to voxel
POSSIBLE = (1e-6, 1e6)
TILT = 15.0  # degrees; less is how scanners are set up for a head
STEPS = 2**16  # of 0..1 in what is written as float32: noise in further bits could not be packed


def claimed_bytes(shape: tuple[int, ...], dtype: np.dtype, offset: float, limits: Limits) -> int:
    """Returns the bytes that a file with this header must have. Raises UserError where they cannot be a volume."""
    if min(shape, default=0) < 1 or not 0 <= offset <= limits.bytes:
        raise UserError(f"its header claims the shape {shape} after {offset} bytes: write it again")
    if dtype.kind not in "iuf":
        raise UserError(f"voxels of type {dtype}: give real numbers")
    voxels = math.prod(shape)
    check_bytes(voxels * max(dtype.itemsize, 4), "its header claims", limits)
    if math.prod(shape[3:]) > 1:
        raise UserError(f"{math.prod(shape[3:])} volumes of shape {shape[:3]}: give one volume a file")
    return int(offset) + voxels * dtype.itemsize


def dtype_of(header: Any) -> np.dtype:
    """Returns the type of the voxels that a header of nibabel names."""
    try:
        return header.get_data_dtype()
    except (KeyError, ValueError) as error:
        raise UserError(f"its header names a type of voxels that is unknown ({error}): write it again") from None


def three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns the shape with exactly 3 axes; axes beyond them have length 1."""
    x, y, z = (*shape, 1, 1)[:3]
    return x, y, z


def axial(stored: np.ndarray, turn: Turn, slope: float = 1, intercept: float = 0) -> np.ndarray:
    """Returns the axial slices float32 [D, H, W] of an array [x, y, z] as stored."""
    turned = turn(stored)
    slices = np.empty(turned.shape, np.float32)
    for place, image in enumerate(turned):
        slices[place] = image if (slope, intercept) == (1, 0) else image.astype(np.float64) * slope + intercept
    return slices


def doubts(affine: np.ndarray, step: tuple[float, ...]) -> tuple[str, ...]:
    """Returns sentences on distances in mm that can hardly be meant, and on slices that are not quite axial.

    Raises UserError on distances that no image can have.
    """
    if not all(POSSIBLE[0] <= side <= POSSIBLE[1] for side in step):
        raise UserError(f"its voxels measure {' x '.join(f'{side:.3g}' for side in step)} mm: write its size again")
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    tilt = np.degrees(np.arccos(np.clip(np.abs(columns).max(0).min(), 0, 1)))
    far = not all(USUAL[0] <= side <= USUAL[1] for side in step)
    measures = " x ".join(f"{side:.3g}" for side in step)
    said = [f"its voxels measure {measures} mm: check the unit that its header names"] * far
    return (*said, *[f"its axes are tilted by {tilt:.0f} degrees, and its slices stay as they are"] * bool(tilt > TILT))


def planes(values: np.ndarray, turn_back: Turn, dtype: np.dtype) -> Iterator[bytes]:
    """Yields the planes of axial slices [D, H, W] as they are stored."""
    for plane in np.moveaxis(turn_back(values), 2, 0):
        yield rounded(plane, dtype).tobytes("F")


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns values of another type: whole numbers, or floats in steps of 1/65536."""
    if dtype.kind == "i":
        return np.rint(values).astype(dtype)
    return (np.rint(values * np.float32(STEPS)) / np.float32(STEPS)).astype(dtype)


def units_of(modality: str) -> Literal["unstated", "arbitrary"]:
    """Returns the units of a volume whose header knows none."""
    return "unstated" if modality == "ct" else "arbitrary"


def stored_type(conversion: Conversion, deviation: bool) -> np.dtype:
    """Returns the type in which values are stored: int16 for HU, which are whole numbers, else float32.

    A standard deviation, and what is in 0..1, are not whole numbers.
    """
    return np.dtype(np.int16 if conversion.hounsfield and not deviation else np.float32)


def description(conversion: Conversion, deviation: bool) -> str:
    """Returns text for a header: what was made, of what, by which model, and the limits of its values."""
    confined = f", {conversion.bounds}" if conversion.hounsfield and not deviation else ""
    return f"fedjax-mri {conversion.model[:30]}: {conversion.source} to {conversion.to}{confined}" + ", sd" * deviation
