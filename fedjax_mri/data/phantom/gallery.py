"""Pictures of the phantoms: a row per site, of the head with the registered scans and tissues of one patient."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check

from .lesions import CLASSES
from .physics import NAMES
from .procedural import census, origin
from .skin import Skin
from .source import Phantom, pictures, reader
from .thorax import Thorax

BRAIN_WINDOW = (0.0, 80.0)  # HU
COLUMNS = 8  # patients of a site on a sheet
COLOURS = {
    "air": "#000000",
    "fat": "#e8d9a0",
    "muscle": "#a0522d",
    "cortical bone": "#ffffff",
    "diploe": "#c9c9c9",
    "csf": "#2a6fdb",
    "grey matter": "#8a8a8a",
    "white matter": "#f2ead8",
    "blood": "#b3122a",
    "glioma": "#f28e2b",
    "meningioma": "#59a14f",
    "adenoma": "#b07aa1",
    "necrosis": "#6b3e1e",
    "oedema": "#76b7d2",
    "calcification": "#fff200",
    "haematoma": "#7a0b1a",
}


def patients(phantom: Phantom, sites: int, seed: int, each: int = 1) -> dict[str, np.ndarray]:
    """Returns the first `each` patients of the first sites: fields [sites, each, S, S, ...]."""
    read, index = reader(phantom), jnp.arange(each, dtype=jnp.int32)
    every = jax.jit(jax.vmap(read, (None, 0, None)))
    return jax.device_get(every(origin(phantom, seed), jnp.arange(sites, dtype=jnp.int32), index))


def tissue_colours(tissue: np.ndarray) -> np.ndarray:
    """Returns memberships [..., T] as colours [..., 3] in 0..1."""
    palette = [[int(COLOURS[name][i : i + 2], 16) / 255 for i in (1, 3, 5)] for name in NAMES]
    return tissue @ np.asarray(palette)


def save_gallery(config: Phantom, sites: int, seed: int, path: Path) -> None:
    """Draws `sites` rows: CT in the brain window, MR, tissues, and MR with the tumour outlined.

    Raises UserError where the name of the file does not end like a kind of picture.
    """
    check_name(path)
    traits, _ = census(pictures(config), config.sites, origin(config, seed), sites)
    scans = {name: value[:, 0] for name, value in patients(config, sites, seed).items()}
    names = list(config.sites.protocols)

    def draw(row: int, axes: Any) -> None:
        ct, mr, mask = (scans[name][row, ..., 0] for name in ("ct", "mr", "mask"))
        show = {"cmap": "gray", "interpolation": "bicubic"}
        axes[0].imshow(ct, vmin=BRAIN_WINDOW[0], vmax=BRAIN_WINDOW[1], **show)
        axes[1].imshow(mr, vmin=0, vmax=1, **show)
        axes[2].imshow(np.clip(tissue_colours(scans["tissue"][row]), 0, 1), interpolation="nearest")
        axes[3].imshow(mr, vmin=0, vmax=1, **show)
        if mask.max() > 0.5:
            axes[3].contour(mask, [0.5], colors="#ffb000", linewidths=1.0)
        titles = ("CT, 0 to 80 HU", f"{names[traits.protocol[row]]}, {traits.field[row]:g} T", "tissue")
        for axis, title in zip(axes, (*titles, CLASSES[scans["label"][row]])):
            axis.set_title(title, color="white", fontsize=8)

    save_rows(path, sites, 4, draw)


def save_sheet(config: Thorax | Skin, sites: int, seed: int, path: Path) -> None:
    """Draws `sites` rows of eight patients each, with their classes and the outlines of what makes them.

    Raises UserError where the name of the file does not end like a kind of picture.
    """
    check_name(path)
    federation = config.build(seed)
    read, several = check.reader(federation.train.read), jnp.arange(COLUMNS, dtype=jnp.int32)

    def draw(row: int, axes: Any) -> None:
        batch = jax.device_get(read(federation.train.store, jnp.int32(row), several))
        for axis, image, mask, label in zip(axes, batch["image"], batch["mask"], batch["label"]):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
            if mask.max() > 0.3:
                axis.contour(mask[..., 0], [0.3], colors="#ffb000", linewidths=0.6)
            axis.set_title(federation.classes[label], color="white", fontsize=8)

    save_rows(path, sites, COLUMNS, draw)


def check_name(path: Path) -> None:
    """Raises UserError where the name of a file does not end like a kind of picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if path.suffix.removeprefix(".").lower() not in FigureCanvasAgg.get_supported_filetypes():
        raise UserError(f"--out {path}: give a name that ends in .png, .jpg, .pdf or .svg")


def save_rows(path: Path, rows: int, columns: int, draw: Callable[[int, Any], None]) -> None:
    """Writes a picture of which `draw` fills each row, given its number and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * columns, 2.25 * rows + 0.3), facecolor="black", layout="constrained")
    for row, axes in enumerate(figure.subplots(rows, columns, squeeze=False)):
        draw(row, axes)
        for axis in axes:
            axis.axis("off")
    FigureCanvasAgg(figure)
    disk.write_bytes(path, disk.encoded(figure, kind=path.suffix.removeprefix(".").lower(), facecolor="black"))
