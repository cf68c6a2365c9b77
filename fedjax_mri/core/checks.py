"""Range checks of settings. In a vmapped sweep a value may be a tracer; then it is unknown and passes unchecked."""

import math

from fedjax_mri.core.errors import UserError, is_concrete


def positive(field: str, value: float) -> None:
    """Raises UserError unless `value` is positive and finite."""
    _require(field, value, not is_concrete(value) or (value > 0 and math.isfinite(value)), "a positive, finite number")


def not_negative(field: str, value: float) -> None:
    """Raises UserError unless `value` is 0 or more, and finite."""
    _require(
        field, value, not is_concrete(value) or (value >= 0 and math.isfinite(value)), "a finite number, 0 or more"
    )


def fraction(field: str, value: float) -> None:
    """Raises UserError unless 0 <= `value` < 1."""
    _require(field, value, not is_concrete(value) or 0 <= value < 1, "0 or more, and less than 1")


def share(field: str, value: float) -> None:
    """Raises UserError unless 0 <= `value` <= 1."""
    _require(field, value, not is_concrete(value) or 0 <= value <= 1, "a share from 0 to 1")


def positive_share(field: str, value: float) -> None:
    """Raises UserError unless 0 < `value` <= 1."""
    _require(field, value, not is_concrete(value) or 0 < value <= 1, "a share above 0, up to 1")


def planar(image: tuple[int, ...], user: str) -> tuple[int, int, int]:
    """Returns the shape `image` unchanged if it is [H, W, C].

    Raises UserError on any other shape, such as a volume's, and names its `user`, the part that needs images.
    """
    if len(image) != 3:
        raise UserError(f"{user}: works on images [H, W, C], the data have the shape {list(image)}; choose other data")
    height, width, channels = image
    return height, width, channels


def _require(field: str, value: float, valid: bool, range: str) -> None:
    if not valid:
        raise UserError(f"{field}={value}: must be {range}")
