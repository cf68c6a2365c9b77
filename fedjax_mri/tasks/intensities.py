"""Intensities of CT and MR: HU and 0..1 in the data, -1..1 inside the networks of a translation.

A window says which HU count as -1 and 1.
"""

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.tasks.task import Batch

MODALITIES = ("ct", "mr")
DIRECTIONS = (("ct", "mr"), ("mr", "ct"))  # from, to

Window = tuple[float, float] | None  # HU that networks get as -1 and 1; None: CT is a picture in 0..1 of unknown HU
Images = dict[str, jax.Array]  # modality -> [B, H, W, C]


def limits(window: Window) -> dict[str, tuple[float, float]]:
    """Returns what counts as -1 and 1 in each modality's units.

    Raises UserError where the window's ends are not in order.
    """
    if window is not None and not window[0] < window[1]:
        raise UserError(f"task.window={window}: give the lower HU first, or None for CT in 0..1")
    return {"ct": window or (0.0, 1.0), "mr": (0.0, 1.0)}


def displayed(window: Window, modality: str, x: jax.Array) -> jax.Array:
    """Returns images in the units of their modality as a display shows them, in 0..1.

    Beyond the window they are clipped.
    """
    low, high = limits(window)[modality]
    return jnp.clip((x - low) / (high - low), 0.0, 1.0)


def network_inputs(window: Window, batch: Batch) -> Images:
    """Returns the batch's CT and MR in -1..1, as networks take them."""
    return {name: 2 * displayed(window, name, batch[name]) - 1 for name in MODALITIES if name in batch}


def in_units(window: Window, modality: str, x: jax.Array) -> jax.Array:
    """Returns a network's images in -1..1 in the units of their modality: CT in HU, MR in 0..1."""
    low, high = limits(window)[modality]
    return low + (high - low) * to_unit_range(x)


def to_unit_range(x: jax.Array) -> jax.Array:
    """Returns images in -1..1 brought to 0..1."""
    return (x + 1) / 2
