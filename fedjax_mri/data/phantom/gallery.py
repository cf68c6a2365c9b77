"""A picture of the phantom: a row per site, the registered scans and tissues of one patient."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError

from .lesions import CLASSES
from .physics import NAMES
from .procedural import census, origin
from .source import Phantom, pictures, reader

BRAIN_WINDOW = (0.0, 80.0)  # HU
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
    """The first `each` patients of the first sites: fields [sites, each, S, S, ...]."""
    read, index = reader(phantom), jnp.arange(each, dtype=jnp.int32)
    every = jax.jit(jax.vmap(read, (None, 0, None)))
    return jax.device_get(every(origin(phantom, seed), jnp.arange(sites, dtype=jnp.int32), index))


def tissue_colours(tissue: np.ndarray) -> np.ndarray:
    """Memberships [..., T] as colours [..., 3] in 0..1."""
    palette = [[int(COLOURS[name][i : i + 2], 16) / 255 for i in (1, 3, 5)] for name in NAMES]
    return tissue @ np.asarray(palette)


def save_gallery(config: Phantom, sites: int, seed: int, path: Path) -> None:
    """Draws `sites` rows: CT in the brain window, MR, tissues, and MR with the tumour outlined.

    Raises UserError where the name of the file does not end like a kind of picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind = path.suffix.removeprefix(".").lower()
    if kind not in FigureCanvasAgg.get_supported_filetypes():
        raise UserError(f"--out {path}: give a name that ends in .png, .jpg, .pdf or .svg")
    traits, _ = census(pictures(config), config.sites, origin(config, seed), sites)
    scans = {name: value[:, 0] for name, value in patients(config, sites, seed).items()}
    names = list(config.sites.protocols)
    figure = Figure(figsize=(8.8, 2.25 * sites + 0.3), facecolor="black", layout="constrained")
    axes = figure.subplots(sites, 4, squeeze=False)
    for row in range(sites):
        ct, mr, mask = (scans[name][row, ..., 0] for name in ("ct", "mr", "mask"))
        show = {"cmap": "gray", "interpolation": "bicubic"}
        axes[row, 0].imshow(ct, vmin=BRAIN_WINDOW[0], vmax=BRAIN_WINDOW[1], **show)
        axes[row, 1].imshow(mr, vmin=0, vmax=1, **show)
        axes[row, 2].imshow(np.clip(tissue_colours(scans["tissue"][row]), 0, 1), interpolation="nearest")
        axes[row, 3].imshow(mr, vmin=0, vmax=1, **show)
        if mask.max() > 0.5:
            axes[row, 3].contour(mask, [0.5], colors="#ffb000", linewidths=1.0)
        titles = ("CT, 0 to 80 HU", f"{names[traits.protocol[row]]}, {traits.field[row]:g} T", "tissue")
        for axis, title in zip(axes[row], (*titles, CLASSES[scans["label"][row]])):
            axis.set_title(title, color="white", fontsize=8)
            axis.axis("off")
    FigureCanvasAgg(figure)
    disk.write_bytes(path, disk.encoded(figure, kind=kind, facecolor="black"))
