"""The units of a translation: CT in HU and MR in 0..1 outside, both in -1..1 inside the networks."""

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.tasks.task import Batch

MODALITIES = ("ct", "mr")
DIRECTIONS = (("ct", "mr"), ("mr", "ct"))  # from, to

Window = tuple[float, float] | None  # HU seen as -1 and 1; None: CT is a picture in 0..1 whose HU nobody knows
Images = dict[str, jax.Array]  # modality -> [B, H, W, C]


def limits(window: Window) -> dict[str, tuple[float, float]]:
    """What stands for -1 and 1 in each modality's own units. Raises UserError on a window that is none."""
    if window is not None and not window[0] < window[1]:
        raise UserError(f"task.window={window}: give the lower HU first, or None for CT in 0..1")
    return {"ct": window or (0.0, 1.0), "mr": (0.0, 1.0)}


def share(window: Window, name: str, x: jax.Array) -> jax.Array:
    """Images in the units of their modality as they are displayed, in 0..1; what lies beyond the window is clipped."""
    low, high = limits(window)[name]
    return jnp.clip((x - low) / (high - low), 0.0, 1.0)


def seen(window: Window, batch: Batch) -> Images:
    """The batch's CT and MR as networks see them, in -1..1."""
    return {name: 2 * share(window, name, batch[name]) - 1 for name in MODALITIES if name in batch}


def given(window: Window, name: str, x: jax.Array) -> jax.Array:
    """Images in -1..1 in the units of their modality: CT in HU, MR in 0..1."""
    low, high = limits(window)[name]
    return low + (high - low) * unit(x)


def unit(x: jax.Array) -> jax.Array:
    """-1..1 to 0..1."""
    return (x + 1) / 2
