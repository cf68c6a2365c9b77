"""How arrays lie in the patient: from a file's own axes to axial slices as a radiologist sees them, and back.

An oblique array is turned to the nearest axes and not interpolated, so that every voxel keeps its value.
Affines are NIfTI's: from indices [x, y, z] to mm to the right, front and head of the patient (RAS).
"""

from collections.abc import Callable

import numpy as np

from fedjax_mri.core.errors import UserError

Turn = Callable[[np.ndarray], np.ndarray]


def turns(affine: np.ndarray) -> tuple[Turn, Turn]:
    """Two functions: arrays [x, y, z] of this affine to axial slices [D, H, W] (see `scan.py`); and back.

    Raises UserError on an affine that is not finite or has no volume.
    """
    from nibabel import orientations

    if not np.isfinite(affine).all():
        raise UserError("its affine is not finite: write its orientation again, in NIfTI sform or qform")
    own, wanted = orientations.io_orientation(affine), orientations.axcodes2ornt("LPS")
    if np.isnan(own).any():
        raise UserError("its affine has no volume: write its orientation again, in NIfTI sform or qform")
    there, back = (orientations.ornt_transform(*pair) for pair in ((own, wanted), (wanted, own)))

    def turn(array: np.ndarray) -> np.ndarray:
        return orientations.apply_orientation(array, there).transpose(2, 1, 0)

    def turn_back(slices: np.ndarray) -> np.ndarray:
        return orientations.apply_orientation(slices.transpose(2, 1, 0), back)

    return turn, turn_back


def is_axial(affine: np.ndarray) -> bool:
    """Whether arrays [x, y, z] of this affine are axial slices, one for each z."""
    from nibabel import orientations

    return bool(orientations.io_orientation(affine)[2, 0] == 2)


def spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Distances in mm between the slices, rows and columns that `turns` gives."""
    from nibabel import orientations

    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    axes = orientations.ornt_transform(orientations.axcodes2ornt("LPS"), orientations.io_orientation(affine))[:, 0]
    x, y, z = (float(sizes[int(axis)]) for axis in axes)
    return z, y, x
