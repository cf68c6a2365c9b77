"""Secrets divided among clients, of whom any `threshold` can restore them and fewer learn nothing (Shamir 1979).

A share is the value of a random polynomial over the field of p = 2^521 - 1 whose value at 0 is the secret.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from fedjax_mri.secure.crypto import Entropy

PRIME = 2**521 - 1
SHARE_BYTES = 66
RANDOM_BYTES = SHARE_BYTES + 16  # of a coefficient: what is left of it modulo p differs from uniform by 2^-128 or so


def divide(secret: int, threshold: int, points: Sequence[int], entropy: Entropy) -> list[int]:
    """Returns a share for each of `points`, which are different and not 0."""
    random = [int.from_bytes(entropy(RANDOM_BYTES), "big") % PRIME for _ in range(threshold - 1)]
    return [_value([secret, *random], point) for point in points]


def restore(shares: Mapping[int, int], threshold: int) -> int | None:
    """Returns the secret of shares by their points; None if they do not lie on one polynomial of that many terms."""
    points = sorted(shares)
    first = tuple(points[:threshold])

    def at(x: int) -> int:
        return sum(c * shares[p] for c, p in zip(_coefficients(first, x), first)) % PRIME

    return at(0) if all(at(x) == shares[x] % PRIME for x in points[threshold:]) else None


def _value(terms: Sequence[int], x: int) -> int:
    value = 0
    for term in reversed(terms):
        value = (value * x + term) % PRIME
    return value


@lru_cache(maxsize=1024)  # the same for all secrets that the same clients restore
def _coefficients(points: tuple[int, ...], x: int) -> tuple[int, ...]:
    """Returns what the values at `points` are multiplied by in the value at `x` (Lagrange)."""
    found = []
    for i in points:
        above, below = 1, 1
        for j in points:
            if j != i:
                above, below = above * (x - j) % PRIME, below * (i - j) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)
