"""Where DICOM images lie in the patient: one, and a stack of them."""

from collections.abc import MutableSequence, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError

USUAL = np.array([[1.0, 0, 0], [0, 1, 0]])  # rows run to the patient's left, columns to the back
NEARLY = 0.01  # mm between distances, or cosine of an angle, that count as equal


class ImagePlane(NamedTuple):
    """Where an image lies, in mm to the left, back and head of the patient; None: the file does not say."""

    position: np.ndarray | None  # [3] of the middle of the first pixel
    orientation: np.ndarray | None  # [2, 3] unit vectors along a row, and down a column
    spacing: np.ndarray | None  # [2] between rows, and between columns
    thickness: float | None

    @property
    def grid(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Orientation and spacing, which all images of one volume share."""
        return self.orientation, self.spacing

    @property
    def normal(self) -> np.ndarray:
        """The direction [3] at right angles to the image."""
        return np.cross(*(USUAL if self.orientation is None else self.orientation))


def image_plane(dataset: Any) -> ImagePlane:
    """Returns the plane that a dataset states. Raises UserError on one that cannot be."""
    position = numbers(dataset, "ImagePositionPatient", 3)
    orientation = numbers(dataset, "ImageOrientationPatient", 6)
    spacing = numbers(dataset, "PixelSpacing", 2)
    thickness = numbers(dataset, "SliceThickness", 1)
    if orientation is not None:
        orientation = orientation.reshape(2, 3)
        if np.abs(orientation @ orientation.T - np.eye(2)).max() > NEARLY:
            raise UserError("ImageOrientationPatient is not two directions at right angles: write it again")
        orientation /= np.linalg.norm(orientation, axis=1, keepdims=True)
    if spacing is not None and min(spacing) <= 0:
        raise UserError(f"PixelSpacing is {spacing[0]:g} x {spacing[1]:g} mm: write it again")
    return ImagePlane(position, orientation, spacing, None if thickness is None else abs(float(thickness[0])) or None)


def numbers(dataset: Any, name: str, count: int) -> np.ndarray | None:
    """Returns the numbers [count] of an element; None where it has none, or one that is not finite.

    A decimal comma is read as a point. Raises UserError on other text.
    """
    written = texts(dataset, name)
    try:
        values = np.array([float(one.replace(",", ".")) for one in written])
    except ValueError:
        raise UserError(f"{name} is {written}, not numbers: write it again") from None
    if len(values) not in (0, count):
        raise UserError(f"{name} has {len(values)} numbers, not {count}: write it again")
    return values if len(values) and np.isfinite(values).all() else None


def texts(dataset: Any, name: str) -> list[str]:
    """Returns the values of an element of text as they are written.

    They are returned even where they are not what the element may hold.
    """
    element = dataset.get_item(name)
    value = None if element is None else element.value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").split("\\")
    many = value if isinstance(value, MutableSequence) else [value]
    return [text for text in (str(one).strip(" \0") for one in many if one is not None) if text]


def affine(places: Sequence[ImagePlane]) -> np.ndarray:
    """Returns the affine from indices [column, row, image] of images in order to mm (RAS).

    What a file does not say is taken as usual.
    """
    first, last = places[0], places[-1]
    row, column = USUAL if first.orientation is None else first.orientation
    down, along = (1.0, 1.0) if first.spacing is None else first.spacing
    step = first.normal * (first.thickness or down)
    origin = np.zeros(3) if first.position is None else first.position
    if len(places) > 1 and first.position is not None and last.position is not None:
        step = (last.position - first.position) / (len(places) - 1)
    found = np.eye(4)
    found[:3] = np.stack([row * along, column * down, step, origin], 1)
    found[:2] *= -1
    return found


def depths(places: Sequence[ImagePlane]) -> np.ndarray:
    """Returns how far images lie along the normal of the first, in mm; NaN where a position is not known."""
    unknown = np.full(3, np.nan)
    return np.array([places[0].normal @ (unknown if one.position is None else one.position) for one in places])


def irregular(places: Sequence[ImagePlane]) -> str:
    """Returns in words that images in order are not evenly spaced, or the gantry was tilted; "" if all is regular."""
    positions = [one.position for one in places if one.position is not None]
    if len(places) < 2 or len(positions) < len(places):
        return ""
    gaps, whole = np.diff(depths(places)), float(np.linalg.norm(positions[-1] - positions[0]))
    gaps = gaps[gaps > NEARLY]  # several images at one place are no gap
    if not len(gaps):
        return ""
    tilt = np.degrees(np.arccos(min(1.0, float(gaps.sum()) / whole)))
    said = []
    if np.ptp(gaps) > max(NEARLY, 0.01 * float(np.median(gaps))):
        said.append(f"its slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart")
    if tilt > 0.5:
        said.append(f"the gantry was tilted by {tilt:.3g} degrees")
    return " and ".join(said)
