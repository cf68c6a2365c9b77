"""Draws explanation maps over their images."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from PIL import Image

from fedjax_mri.report.figures import STYLE
from fedjax_mri.xai.measures import HALF

SIDE = 2.9  # inches of a picture
BRIGHT = 0.997  # the quantile of magnitudes at which colours end
OPAQUE = 0.85  # opacity of the strongest value; weaker values show more of the image


@matplotlib.rc_context(STYLE)
def overlay(image: np.ndarray, found: np.ndarray, title: str) -> Figure:
    """Returns a figure of one map [H, W] over its image [H, W], with a colour bar in the map's units."""
    figure = Figure(figsize=(1.35 * SIDE, 1.15 * SIDE), layout="constrained")
    paint(figure, figure.subplots(), image, found, title)
    return figure


@matplotlib.rc_context(STYLE)
def side_by_side(image: np.ndarray, maps: Mapping[str, np.ndarray], lesion: np.ndarray | None = None) -> Figure:
    """Returns a figure of the image and its maps by their titles.

    The true lesion [H, W] is outlined in it if it is known.
    """
    count = 1 + len(maps)
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(SIDE * columns * 1.15, SIDE * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    grey(axes[0], image, "Image")
    for ax, (title, found) in zip(axes[1:], maps.items()):
        paint(figure, ax, image, found, title)
    for ax in axes[:count]:
        outline(ax, lesion)
    return figure


def grey(ax: Axes, image: np.ndarray, title: str = "") -> None:
    """Draws an image, black to white over its own range."""
    ax.imshow(image, cmap="gray")
    ax.set_title(title)
    ax.set_axis_off()


def paint(figure: Figure, ax: Axes, image: np.ndarray, found: np.ndarray, title: str) -> None:
    """Draws a map over its image; where values have both signs red speaks for the class and blue against it.

    Colours end at the BRIGHT quantile, because one bright pixel would hide the rest; the bar then ends in a tip.
    """
    grey(ax, image, title)
    colours, opacity = shades(found)
    low, high = colours.get_clim()
    ax.imshow(found, vmin=low, vmax=high, cmap=colours.cmap, alpha=opacity)
    units = ScalarFormatter()
    units.set_powerlimits((-2, 3))
    tip: Any = "both" if (found < 0).any() else "max"
    tip = tip if np.abs(found).max() > high else "neither"
    bar = figure.colorbar(colours, ax=ax, shrink=0.8, pad=0.02, format=units, extend=tip)
    bar.ax.tick_params(labelsize=6.5)
    bar.outline.set_visible(False)


def shades(found: np.ndarray) -> tuple[ScalarMappable, np.ndarray]:
    """Returns the colours of a map [H, W], and its opacity 0..1 [H, W], which rises with the magnitude."""
    size, signed = np.abs(found), bool((found < 0).any())
    most = float(np.percentile(size, 100 * BRIGHT)) or float(size.max()) or 1.0
    colours = ScalarMappable(Normalize(-most if signed else 0.0, most), "berlin" if signed else "inferno")
    return colours, OPAQUE * np.sqrt(np.minimum(size / most, 1.0))


def layer(found: np.ndarray) -> bytes:
    """Returns a map [H, W] as a transparent PNG, in the colours of `paint`, to be laid over its image."""
    colours, opacity = shades(found)
    pixels = colours.to_rgba(found, bytes=True)
    pixels[..., 3] = np.rint(255 * opacity)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def outline(ax: Axes, lesion: np.ndarray | None) -> None:
    """Draws the edge of a lesion [H, W], if there is one."""
    if lesion is not None and (lesion >= HALF).any():
        ax.contour(lesion, [HALF], colors=["#33dd66"], linewidths=0.9)
