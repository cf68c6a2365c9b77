"""What a translator makes of a few patients: there, back, the truth, and where it is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 6
WORST = 0.5  # error that is drawn in the darkest colour, as a share of the display's range
COLUMNS = (("ct", "mr"), ("mr", "ct"))  # from, to


def draw(shown: Mapping[str, np.ndarray], caption: str) -> Any:
    """A figure, a row a patient, from fields [s, H, W, 1] in 0..1: ct, mr, and made_ct, made_mr, back_ct, back_mr."""
    from matplotlib.figure import Figure

    rows = min(ROWS, len(shown["ct"]))
    figure = Figure(figsize=(13, 1.36 * rows + 0.5), layout="constrained", facecolor="black")
    figure.suptitle(caption, color="white", fontsize=9)
    axes = figure.subplots(rows, 10, squeeze=False)
    for row in range(rows):
        for start, (source, to) in zip((0, 5), COLUMNS):
            _way(
                axes[row, start : start + 5], {name: x[row, ..., 0] for name, x in shown.items()}, source, to, row == 0
            )
    return figure


def _way(axes: np.ndarray, one: Mapping[str, np.ndarray], source: str, to: str, titled: bool) -> None:
    made, truth = one[f"made_{to}"], one[to]
    grey = {
        f"{source.upper()}": one[source],
        f"{to.upper()} made": made,
        f"{source.upper()} back": one[f"back_{source}"],
    }
    for ax, (title, image) in zip(axes, {**grey, f"{to.upper()}, truth": truth}.items()):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title if titled else "", color="white", fontsize=8)
    axes[4].imshow(np.abs(made - truth), cmap="inferno", vmin=0, vmax=WORST)
    axes[4].set_title(f"error, 0 to {WORST}" if titled else "", color="white", fontsize=8)
    for ax in axes:
        ax.set_axis_off()


def save(folder: Path, round: int, shown: Mapping[str, np.ndarray], synthetic: bool) -> Path:
    """FOLDER/round_00010.png of the state after that round."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round_{round:05}.png"
    draw(shown, f"after round {round}" + (", synthetic data" if synthetic else "")).savefig(path, dpi=110)
    return path
