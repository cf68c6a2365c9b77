"""Prepared scans as files: one slice in 0..1 as PNG, all else as NIfTI, which can hold HU and any grid."""

import io
from pathlib import Path

import numpy as np

from fedjax_mri.data.files.read import ending_of
from fedjax_mri.data.files.scan import Scan


def name_of(name: Path, scan: Scan) -> Path:
    """Returns the name of a prepared file: the source's, with the ending of what is written."""
    stem = name.name.removesuffix(ending_of(name.name))
    return name.with_name(stem + (".png" if is_picture(scan) else ".nii.gz"))


def is_picture(scan: Scan) -> bool:
    """Returns whether a scan is one slice in 0..1."""
    return scan.units == "display" and len(scan.voxels) == 1


def encoded(scan: Scan) -> bytes:
    """Returns the bytes of the file: PNG of 16 bits, or NIfTI centred at the origin, int16 HU or float32."""
    if is_picture(scan):
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(np.rint(np.clip(scan.voxels[0], 0, 1) * 65535).astype(np.uint16)).save(file, "PNG")
        return file.getvalue()
    import gzip

    import nibabel

    values = np.rint(np.clip(scan.voxels, -32768, 32767)).astype(np.int16) if scan.units == "hu" else scan.voxels
    step = np.array((scan.spacing or (1.0, 1.0, 1.0))[::-1])
    affine = np.diag([-step[0], -step[1], step[2], 1.0])
    affine[:3, 3] = -np.diag(affine)[:3] * (np.array(values.shape[::-1]) - 1) / 2
    image = nibabel.Nifti1Image(np.ascontiguousarray(values.transpose(2, 1, 0)), affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 1, mtime=0)
