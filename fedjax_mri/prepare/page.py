"""The page of before and after."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from fedjax_mri.data.contract import Table
from fedjax_mri.data.files.scan import Scan
from fedjax_mri.report.figures import PageSection, png
from fedjax_mri.report.page import publish

PAGE = "prepared.html"
SHOWN = 60  # files on the page, at most


class Row(NamedTuple):
    """A file before and after."""

    name: Path
    before: Scan
    after: Scan

    def thin(self) -> "Row":
        """Returns the row with the middle slices alone."""
        middle = [scan._replace(voxels=scan.voxels[len(scan.voxels) // 2][None]) for scan in (self.before, self.after)]
        return Row(self.name, *middle)


def write(out: Path, steps: Sequence[str], rows: Sequence[Row]) -> Path:
    """Writes the page into the folder, and returns its path."""
    shown = [(row.name.as_posix(), picture(row.before), picture(row.after), "; ".join(row.after.notes)) for row in rows]
    table = Table("Middle slices", ("file", "before", "after", "notes"), shown[:SHOWN])
    words = [f"Steps, in order: {', '.join(steps)}. {len(rows)} files; prepared.json has what was done to each."]
    return publish(
        out / PAGE,
        names=[out.name],
        maker="fedjax-mri prepare",
        parts=[PageSection(words=words), PageSection(table=table, whole=True)],
    )


def picture(scan: Scan) -> Markup:
    """Returns the middle slice as an image of the page.

    It is black to white by its own values, a CT in a window of the brain.
    """
    image = scan.voxels[len(scan.voxels) // 2]
    low, high = (-100.0, 300.0) if scan.units == "hu" else np.quantile(image, (0.0, 0.995))
    if scan.units == "display":
        low, high = 0.0, 1.0
    shown = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return Markup('<img src="{}" alt="" width="180">').format(png(shown))


def versions() -> dict[str, str]:
    """Returns the versions of what computes."""
    return {name: importlib.metadata.version(name) for name in ("jax", "numpy", "scipy")}
