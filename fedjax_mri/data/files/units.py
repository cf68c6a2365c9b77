"""From a file's units to those a model is trained and used in: decided here alone, for training and use alike.

CT: HU. A display picture, in 0..1, is read as the run's window; of a run without a window, as it is. A file that does
not say that it is in HU is held against what every CT shows (`check_hounsfield`).

MR: any scale is brought to 0..1. Background and least value are a whole scan's, white is each slice's own, as the
phantom's is: a slice means the same whether it comes alone, in a series or in a volume. White follows the
intensity-weighted mean, which neither background nor the size of the head moves. In a volume it is at least a quarter
of the whole volume's, so that a slice of nothing but noise stays dark. A display picture for a run without a window,
which was trained on such pictures, is taken as it is.
"""

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import resample
from fedjax_mri.data.files.scan import Conversion, Scan

AIR = -1000.0  # HU
MIN_HU = -1024.0  # HU; what lies below is padding outside of the scanner's field
MIN_CT_SPAN = 20.0  # HU between the least and the most of any CT; the noise of a scanner alone spans more
SHIFTED = (874.0, 1174.0)  # where soft tissue, -150 to 150 HU, lies in what is stored with an offset of 1024
MIN_WHITE_SHARE = 0.25  # white of a slice, as a share of its volume's; that of noise is a tenth and less
MAX_VALUE = 1e12  # of any image; more is damage, and one such voxel would make all others black
RINGING = 0.02  # share of an MR's absolute values that lies below 0 after interpolation
FLAG = "--ct-offset (in training --data.reading.ct-offset)"
REMEDY = f"give the scanner's own HU, or {FLAG} with what is to be added, 0 where it is in HU"
Window = tuple[float, float] | None


def resolve_units(scan: Scan, ct_offset: float | None = None) -> Scan:
    """Returns a scan whose units are known and whose voxels are finite; NaN around the head becomes background.

    A CT whose file states no units is shifted by `ct_offset`, and without one it is checked.
    Raises UserError on other voxels that are not finite, and on a CT that is not in HU.
    """
    finite = np.isfinite(scan.voxels)
    notes = [*scan.notes, *check_missing(scan.voxels, finite)]
    for end in (np.fmin.reduce(scan.voxels, None), np.fmax.reduce(scan.voxels, None)):  # NaN apart
        if abs(end) > MAX_VALUE:
            raise UserError(f"a value of {end:.3g}, which no image has: replace it")
    voxels, whole = scan.voxels, bool(finite.all())
    if scan.units == "unstated":
        if ct_offset is None:
            notes += check_hounsfield(sample(voxels, finite))
        else:
            voxels = voxels + np.float32(ct_offset)
    is_ct = scan.units in ("unstated", "hu")
    if not whole:
        voxels = np.where(finite, voxels, np.float32(AIR if is_ct else min(0.0, voxels[finite].min())))
    return scan._replace(voxels=voxels, units="hu" if is_ct else scan.units, notes=tuple(notes))


def check_missing(voxels: np.ndarray, finite: np.ndarray) -> list[str]:
    """Returns a sentence on NaN around the head.

    Raises UserError on infinite voxels, and on NaN that the head encloses.
    """
    bad = voxels.size - int(finite.sum())
    if not bad:
        return []
    from scipy import ndimage

    closed = np.pad(finite, ((1, 1), (0, 0), (0, 0)), constant_values=True)  # a head may be cut at its top and bottom
    enclosed = ndimage.binary_fill_holes(closed)[1:-1] & ~finite
    if bad == voxels.size or np.isinf(voxels).any() or enclosed.any():
        raise UserError(f"{bad} of {voxels.size} voxels are NaN or infinite: replace them")
    return [f"{bad} of {voxels.size} voxels, all around the head, are NaN and count as background"]


def sample(voxels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the wanted ones among about a million voxels, evenly spread."""
    step = (voxels.size >> 20) | 1  # odd, so that it does not fall in with the rows
    return voxels.ravel()[::step][wanted.ravel()[::step]]


def check_hounsfield(values: np.ndarray) -> list[str]:
    """Returns sentences on what is doubtful in a CT's values. Raises UserError where they cannot be HU.

    A CT in HU may lack air or bone, where a window was cut out or a head was stripped. But it spans more than noise,
    most of it is not denser than bone, and there is less dense bone (874 to 1174 HU) than other bone (200 to 800 HU).
    With an offset of 1024 soft tissue, which is the larger part of any head, lies where dense bone would be, and
    nothing but edges where other bone would be.
    """

    def share(low: float, high: float) -> float:
        return float(np.mean((values >= low) & (values <= high)))

    low, high = float(values.min()), float(values.max())
    said = f"values from {low:.6g} to {high:.6g}"
    if 0 < high - low < MIN_CT_SPAN:
        raise UserError(f"{said} are not HU: {REMEDY}")
    if share(3100, np.inf) > 0.5:
        raise UserError(f"{said}, most of them denser than bone, are not HU: {REMEDY}")
    soft = share(*SHIFTED)
    if soft > max(0.03, share(200, 800)) and share(-1200, -400) < 0.001:
        raise UserError(f"{said}, most tissue near 1024, are HU with an offset: give {FLAG} -1024")
    return [f"{said} hold no air: they are taken as HU, in a window"] if low > AIR / 2 and high > low else []


def check_units(scan: Scan, conversion: Conversion) -> None:
    """Raises UserError on HU for a model that knows none."""
    if conversion.source == "ct" and conversion.window is None and scan.units != "display":
        raise UserError("in HU, and the run knows CT only as display pictures: give PNG or JPEG, or another run")


def to_model(scan: Scan, modality: str, window: Window, size: tuple[int, int]) -> np.ndarray:
    """Returns all slices of a scan as a model of this modality and window takes them: float32 [D, H, W].

    The size of each is [H, W].
    """
    displayed = scan.units == "display"

    def resized(slices: np.ndarray, fill: float) -> np.ndarray:
        return np.stack([resample.fit(image, size, fill, pixel(scan)) for image in slices])

    if displayed and window is None:
        return resized(scan.voxels, 0.0)
    if modality == "mr":
        return normalise_mr(np.maximum(resized(shift_to_background(scan.voxels), 0.0), np.float32(0)))
    if not displayed:
        return np.maximum(resized(scan.voxels, AIR), np.float32(MIN_HU))
    assert window is not None
    low, high = (np.float32(edge) for edge in window)
    return low + resized(scan.voxels, 0.0) * (high - low)


def pixel(scan: Scan) -> tuple[float, float]:
    """Returns the distances between rows and columns; 1 and 1 where they are not known."""
    return (scan.spacing[1], scan.spacing[2]) if scan.spacing else resample.SQUARE


def normalise_mr(magnitude: np.ndarray) -> np.ndarray:
    """Returns slices of an MR [D, H, W] over what is shown as white, clipped to 0..1, as the phantom's `show_mr` does.

    Empty slices stay as they are.
    """
    totals = np.array([image.sum(dtype=np.float64) for image in magnitude])
    squares = np.array([np.square(image, dtype=np.float64).sum() for image in magnitude])
    if not squares.any():
        return magnitude
    white = 1.8 * np.maximum(squares / np.where(totals > 0, totals, 1), MIN_WHITE_SHARE * squares.sum() / totals.sum())
    return np.stack([np.clip(image / own, 0, 1).astype(np.float32) for image, own in zip(magnitude, white)])


def shift_to_background(voxels: np.ndarray) -> np.ndarray:
    """Returns an MR [D, H, W] of any scale, shifted so that its background is 0 and no tissue lies below.

    What lies below 0 by interpolation alone is left there. Else values are z-scores, or in -1..1. Their background is
    what most voxels at the edges of slices equal. It is the least value where all voxels were scaled; where those of
    the head were, it lies in the middle of the range, and is then put below all of them.
    """
    below = -np.minimum(voxels, 0).sum(dtype=np.float64)
    if below <= RINGING * np.abs(voxels).sum(dtype=np.float64):
        return voxels
    edges = np.concatenate([voxels[:, [0, -1]].ravel(), voxels[:, :, [0, -1]].ravel()])
    ground = np.median(edges)
    head = sample(voxels, voxels != ground)
    if not head.size:
        return np.zeros_like(voxels)
    low, middle = np.percentile(head, (0.1, 50))
    if ground <= low and low - ground <= middle - low:
        low = ground  # else it is a mark far below all values, such as -32768
    shifted = np.maximum(voxels - np.float32(low), np.float32(0))
    return np.where(outside_head(voxels == ground), np.float32(0), shifted)


def outside_head(ground: np.ndarray) -> np.ndarray:
    """Returns which voxels [D, H, W] of the background's value the head does not enclose in their slice.

    `ground` is bool [D, H, W], true where a voxel has that value.
    """
    from scipy import ndimage

    return np.stack([~ndimage.binary_fill_holes(~image) for image in ground])


def within_bounds(values: np.ndarray, conversion: Conversion) -> np.ndarray:
    """Returns a model's values, clipped to what its units and int16 can hold."""
    return np.clip(values, *((MIN_HU, 32767.0) if conversion.hounsfield else (0.0, 1.0)))
