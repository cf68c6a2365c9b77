"""Settings of the uplink in a config."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fedjax_mri.core.building import build
from fedjax_mri.core.checks import not_negative
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import Reduce, Stage, Uplink
from fedjax_mri.fed.uplink.reductions.matrix import Preaggregator, matrix
from fedjax_mri.fed.uplink.reductions.mean import Mean
from fedjax_mri.fed.uplink.stages.clip import clip
from fedjax_mri.fed.uplink.weigh import by_examples, uniformly


@dataclass(frozen=True)
class UplinkSettings:
    """Settings of the uplink: weighting, stages and reduction."""

    weight: Literal["examples", "uniform"] = "examples"
    clip: float = 0.0  # bound of a first stage Clip; 0: none
    stages: tuple[Any, ...] = ()  # settings of stages, in the order in which updates pass them
    before: tuple[Any, ...] = ()  # settings of what changes the updates of a cohort before a rule, in order
    reduce: Any = field(default_factory=Mean)  # settings of the reduction

    def build(self, first: Sequence[Stage] = (), last: Sequence[Stage] = ()) -> Uplink:
        """Returns the uplink with the stages `first` before its own and `last` after them.

        Raises UserError if `clip` is negative or not a number, and where a part does.
        """
        not_negative("uplink.clip", self.clip)
        lists = {"stages": self.stages, "before": self.before, "reduce": (self.reduce,)}
        for name, part in ((name, part) for name, parts in lists.items() for part in parts):
            if not hasattr(part, "build"):
                raise UserError(f"uplink.{name}={part}: choose it by name, --fed.uplink.{name} {part}")
        clipping = () if is_concrete(self.clip) and not self.clip else (clip(self.clip),)
        stages = chain(*first, *clipping, *(build(settings, Stage) for settings in self.stages), *last)
        return Uplink(by_examples if self.weight == "examples" else uniformly, stages, self._reduce())

    def _reduce(self) -> Reduce:
        reduce = build(self.reduce, Reduce)
        if not self.before:
            return reduce
        if reduce.rule is None:
            raise UserError(
                f"uplink.before: changes single updates, of which {reduce.name} sees the sum alone; choose a rule, "
                "such as --fed.uplink.reduce trimmedmean"
            )
        return matrix(reduce.rule, [build(settings, Preaggregator) for settings in self.before])
