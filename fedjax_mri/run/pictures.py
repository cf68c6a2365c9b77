"""Pictures of a few patients by a translator: translated, translated back, the truth, and the error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_mri.core import disk
from fedjax_mri.run.record import TranslatedExamples
from fedjax_mri.run.results import translated_examples

ROWS = 6  # patients shown at most
BRIGHTEST_ERROR = 0.5  # error drawn in the brightest colour, as a share of the display's range
DIRECTIONS = (("ct", "mr"), ("mr", "ct"))  # from, to


def draw(examples: TranslatedExamples, caption: str) -> Any:
    """Returns a figure with a row for each patient: each direction's source, result, way back, truth and error."""
    from matplotlib.figure import Figure

    columns = [column for source, to in DIRECTIONS if to in examples.made for column in _columns(source, to, examples)]
    rows = min(ROWS, len(columns[0][1]))
    figure = Figure(figsize=(1.3 * len(columns), 1.36 * rows + 0.5), layout="constrained", facecolor="black")
    figure.suptitle(caption, color="white", fontsize=9)
    for row, axes in enumerate(figure.subplots(rows, len(columns), squeeze=False)):
        for ax, (title, images, style) in zip(axes, columns):
            ax.imshow(images[row, ..., 0], vmin=0, **style)
            ax.set_title(title if row == 0 else "", color="white", fontsize=8)
            ax.set_axis_off()
    return figure


def _columns(source: str, to: str, examples: TranslatedExamples) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Returns title, images [s, H, W, 1] and colours of each column of one direction."""
    grey, made, true = {"cmap": "gray", "vmax": 1}, examples.made[to], examples.true[to]
    columns = [(source.upper(), examples.true[source], grey), (f"{to.upper()} made", made, grey)]
    if source in examples.back:
        columns.append((f"{source.upper()} back", examples.back[source], grey))
    heat = {"cmap": "inferno", "vmax": BRIGHTEST_ERROR}
    error = (f"error, 0 to {BRIGHTEST_ERROR}", np.abs(made - true), heat)
    return [*columns, (f"{to.upper()}, truth", true, grey), error]


def save(folder: Path, round: int, shown: Mapping[str, np.ndarray], synthetic: bool) -> None:
    """Draws what a translation task shows after a round into FOLDER/round_00010.png; nothing for other tasks."""
    examples = translated_examples(shown)
    if examples is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    caption = f"after round {round}" + (", synthetic data" if synthetic else "")
    disk.write_bytes(folder / f"round_{round:05}.png", disk.encoded(draw(examples, caption)))
