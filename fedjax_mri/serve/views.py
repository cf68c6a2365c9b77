"""Slices of a volume, drawn as PNG by the server: three planes, in the proportions of the patient."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
LARGEST = 1024  # pixels of a side


def save(folder: Path, number: int, kind: str, voxels: np.ndarray) -> None:
    """Keeps an array of an item for the page: its source, its result, or the result's deviation."""
    draft = folder / f"{number}-{kind}.part.npy"
    np.save(draft, voxels.astype(np.float32), allow_pickle=False)
    draft.replace(folder / f"{number}-{kind}.npy")


def load(folder: Path, number: int, kind: str) -> np.ndarray:
    """Returns the array [D, H, W] of an item, of which only what is looked at is read."""
    values: np.ndarray = np.load(folder / f"{number}-{kind}.npy", mmap_mode="r", allow_pickle=False)
    return values


def cut(voxels: np.ndarray, plane: Plane, at: int) -> np.ndarray:
    """Returns a slice [h, w], the head up; `at` counts from the feet, from the front and from the patient's right."""
    match plane:
        case "axial":
            return voxels[at]
        case "coronal":
            return voxels[::-1, at]
        case "sagittal":
            return voxels[::-1, :, at]


def depth(shape: list[int], plane: Plane) -> int:
    """Returns how many slices of a plane there are."""
    return shape[PLANES.index(plane)]


def png(image: np.ndarray, pixel: tuple[float, float], low: float, high: float) -> bytes:
    """Returns a slice as PNG, `low` black and `high` white; `pixel` has the mm between its rows and its columns."""
    share = np.clip((np.nan_to_num(image) - low) / max(high - low, 1e-6), 0, 1)
    drawn = Image.fromarray(np.rint(255 * share).astype(np.uint8))
    step, limit = min(pixel), max(image.shape)
    height, width = (round(count * side / step) for count, side in zip(image.shape, pixel))
    scale = min(1.0, max(LARGEST, limit) / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    file = io.BytesIO()
    drawn.resize(size, Image.Resampling.BILINEAR if size != drawn.size else Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def pixel(spacing: list[float], plane: Plane) -> tuple[float, float]:
    """Returns the mm between rows and columns of a plane's slices."""
    between, row, column = spacing
    return {"axial": (row, column), "coronal": (between, column), "sagittal": (between, row)}[plane]


def window(units: str, hounsfield: tuple[float, float] | None, voxels: np.ndarray) -> tuple[float, float]:
    """Returns level and width of what is shown where the user chooses nothing; `hounsfield` from black to white."""
    if units == "hu":
        low, high = hounsfield or (-100.0, 300.0)
    elif units in ("share", "display"):
        low, high = 0.0, 1.0
    else:
        some = voxels[:: max(1, len(voxels) // 8)]
        low, high = float(min(some.min(), 0) if units == "deviation" else some.min()), float(np.percentile(some, 99.5))
    return (low + high) / 2, high - low
