"""Real files where their place is named, else the synthetic source that stands in for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedjax_mri.data.contract import Federation, Source, Table, Test


@dataclass(frozen=True)
class StandIn:
    """`files` at `root`, or `synthetic` while no place is named; one flag changes from one to the other.

    The report says which it was: figures of synthetic data are marked.
    """

    files: Any  # a Source
    synthetic: Source
    root: str = ""  # the folder or the table of the files
    field: str = "root"  # of `files`, that says where they are

    def build(self, seed: int) -> Federation:
        """Returns the federation of the source in use. Raises UserError where it does."""
        return self.source.build(seed)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the test sets of the source in use."""
        return self.source.evaluation(classes, seed)

    @property
    def source(self) -> Source:
        """The files where their place is named, else the synthetic source."""
        return replace(self.files, **{self.field: self.root}) if self.root else self.synthetic
