"""How arrays lie in the patient: from a file's own axes to axial slices as a radiologist sees them, and back.

An oblique array is turned to the nearest axes and not interpolated, so that every voxel keeps its value.
Affines are NIfTI's: from indices [x, y, z] to mm to the right, front and head of the patient (RAS).
"""

import functools
from collections.abc import Callable

import numpy as np

from fedjax_mri.core.errors import UserError

Turn = Callable[[np.ndarray], np.ndarray]


def turns(affine: np.ndarray) -> tuple[Turn, Turn]:
    """Returns the function from arrays [x, y, z] of this affine to axial slices [D, H, W], and its inverse.

    `scan.py` says how axial slices lie.

    Raises UserError on an affine that is not finite or has no volume.
    """
    from nibabel import orientations

    there, back = transforms(affine)

    def turn(array: np.ndarray) -> np.ndarray:
        return orientations.apply_orientation(array, there).transpose(2, 1, 0)

    def turn_back(slices: np.ndarray) -> np.ndarray:
        return orientations.apply_orientation(slices.transpose(2, 1, 0), back)

    return turn, turn_back


def is_axial(affine: np.ndarray) -> bool:
    """Returns whether arrays [x, y, z] of this affine are axial slices, one for each z."""
    return bool(transforms(affine)[0][2, 0] == 2)


def spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Returns the distances in mm between the slices, rows and columns that `turns` gives."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = (float(sizes[int(axis)]) for axis in transforms(affine)[1][:, 0])
    return z, y, x


def transforms(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the changes of axes, as nibabel writes them, to left, back and head, and back again."""
    return _transforms(np.asarray(affine[:3, :3], np.float64).tobytes())


@functools.lru_cache
def _transforms(matrix: bytes) -> tuple[np.ndarray, np.ndarray]:
    # The slices of a series share their directions.
    from nibabel import orientations

    affine = np.eye(4)
    affine[:3, :3] = np.frombuffer(matrix).reshape(3, 3)
    if not np.isfinite(affine).all():
        raise UserError("its affine is not finite: write its orientation again, in NIfTI sform or qform")
    own, wanted = orientations.io_orientation(affine), orientations.axcodes2ornt("LPS")
    if np.isnan(own).any():
        raise UserError("its affine has no volume: write its orientation again, in NIfTI sform or qform")
    return orientations.ornt_transform(own, wanted), orientations.ornt_transform(wanted, own)
