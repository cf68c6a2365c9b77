"""A little is enough with the number of standard deviations that does most harm to the rule in force."""

from dataclasses import dataclass

from fedjax_mri.fed.attack import honest
from fedjax_mri.fed.attack.contract import Attack, Marked
from fedjax_mri.fed.attack.linesearch import furthest


@dataclass(frozen=True)
class OptimalALIE(Marked):
    """Settings of marked clients that send the honest mean plus the worst multiple of the standard deviation."""

    def build(self, classes: int) -> Attack:
        """Returns the attack."""
        craft = lambda seen, state: (furthest(seen, honest.mean(seen), honest.std(seen)), state)  # noqa: E731
        return Attack("optimalalie", craft=craft)
