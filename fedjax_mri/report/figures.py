"""The style of a report's figures, and their embedding into a page."""

import base64
import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from PIL import Image

from fedjax_mri.core.disk import encoded
from fedjax_mri.data.contract import Table

WIDE = 9.6  # inches, a figure as wide as the page
INK, RED = "#34495e", "#c0392b"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")  # Tol's bright scheme
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler("color", COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "font.size": 8.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.transparent": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedjax-mri",
    "text.parse_math": False,  # a $ in a class name is a $
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


class PageSection(NamedTuple):
    """A piece of a page: those fields that are given are shown, in this order."""

    title: str = ""
    words: Sequence[str] = ()  # paragraphs
    svg: Markup | None = None
    image: str = ""  # a data URI
    caption: str = ""
    table: Table | None = None
    whole: bool = False  # all rows of the table are shown at once
    settings: dict[str, Any] | None = None
    synthetic: bool = False


def svg(figure: Figure) -> Markup:
    """Returns the figure as an <svg> element, without the parts that only matter to a file of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    # Names such as "axes_1" would occur in every figure of the page, and nothing refers to them.
    return Markup(re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text[text.index("<svg") :]))


def panels(count: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Returns a figure of that many inches, and its axes side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def distinct(count: int) -> np.ndarray:
    """Returns colours that can be told from each other: RGB 0..1, [count, 3]."""
    named = COLOURS if count <= len(COLOURS) else matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))
    return np.array([matplotlib.colors.to_rgb(colour) for colour in named[:count]])


def png(image: np.ndarray) -> str:
    """Returns the image as a data URI.

    image uint8, or float 0..1: [H, W] or [H, W, C], of which the first channel is shown unless C is 3.
    """
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] != 3 else image
    if image.dtype != np.uint8:
        image = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return uri(buffer.getvalue())


def uri(png: bytes) -> str:
    """Returns the bytes of a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def embedded(figure: Figure) -> str:
    """Returns the figure as a data URI of a PNG file."""
    return uri(encoded(figure))
