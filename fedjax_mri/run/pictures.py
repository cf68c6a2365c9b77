"""What a translator makes of a few patients: there, back, the truth, and where it is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 6
WORST = 0.5  # error that is drawn in the brightest colour, as a share of the display's range
WAYS = (("ct", "mr"), ("mr", "ct"))  # from, to


def draw(shown: Mapping[str, np.ndarray], caption: str) -> Any:
    """A figure, a row a patient, of fields [s, H, W, 1] in 0..1: ct, mr, and for a way x to y made_y and back_x."""
    from matplotlib.figure import Figure

    ways = [way for way in WAYS if f"made_{way[1]}" in shown]
    rows, columns = min(ROWS, len(shown["ct"])), [column for way in ways for column in _columns(*way, shown)]
    figure = Figure(figsize=(1.3 * len(columns), 1.36 * rows + 0.5), layout="constrained", facecolor="black")
    figure.suptitle(caption, color="white", fontsize=9)
    for row, axes in enumerate(figure.subplots(rows, len(columns), squeeze=False)):
        for ax, (title, images, style) in zip(axes, columns):
            ax.imshow(images[row, ..., 0], vmin=0, **style)
            ax.set_title(title if row == 0 else "", color="white", fontsize=8)
            ax.set_axis_off()
    return figure


def _columns(source: str, to: str, shown: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Title, images [s, H, W, 1] and colours of each column of one way."""
    grey, a, b = {"cmap": "gray", "vmax": 1}, source.upper(), to.upper()
    columns = [(a, shown[source], grey), (f"{b} made", shown[f"made_{to}"], grey)]
    if f"back_{source}" in shown:
        columns.append((f"{a} back", shown[f"back_{source}"], grey))
    error = np.abs(shown[f"made_{to}"] - shown[to])
    heat = {"cmap": "inferno", "vmax": WORST}
    return [*columns, (f"{b}, truth", shown[to], grey), (f"error, 0 to {WORST}", error, heat)]


def save(folder: Path, round: int, shown: Mapping[str, np.ndarray], synthetic: bool) -> Path:
    """FOLDER/round_00010.png of the state after that round."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round_{round:05}.png"
    draw(shown, f"after round {round}" + (", synthetic data" if synthetic else "")).savefig(path, dpi=110)
    return path
