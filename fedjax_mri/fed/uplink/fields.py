"""The fields of a message: how many values each has, and in how many bits they are written."""

import math
from typing import Any, NamedTuple

Message = tuple[Any, ...]  # float32 or uint32 arrays of any shape, one for each field


class Floats(NamedTuple):
    """A field of `size` float32 numbers."""

    size: int

    @property
    def bits(self) -> int:
        """Number of bits in which it is written."""
        return 32 * self.size


class Integers(NamedTuple):
    """A field of `size` whole numbers of `width` bits each."""

    size: int
    width: int

    @property
    def bits(self) -> int:
        """Number of bits in which it is written."""
        return self.width * self.size


class Subset(NamedTuple):
    """A field of `size` ascending numbers below `below`: a list, or a mark at each number if that is shorter."""

    size: int
    below: int

    @property
    def width(self) -> int:
        """Number of bits of an entry of the list."""
        return width_of(self.below)

    @property
    def bits(self) -> int:
        """Number of bits in which it is written."""
        return min(self.size * self.width, self.below)


Field = Floats | Integers | Subset


def width_of(below: int) -> int:
    """Returns the bits of a whole number from 0 to `below` - 1."""
    return max(1, math.ceil(math.log2(below)))
