"""The weighted mean by sums that are the same to the last bit in whatever order updates are added.

A sum of floats depends on the order, since each addition is rounded. Here each term, weight times value, is cut into
digits of `width` bits on a fixed grid (Ahrens, Demmel, Nguyen: Algorithms for Efficient Reproducible Floating Point
Summation, ACM TOMS 46(3), 2020): digit t of a float holds its bits of the binades 2^(width t - 127) and up. For each
coordinate, the sums of the highest digits are kept as integers. When a term comes that begins with a higher digit, the
sums move down and the lowest are dropped. So the result depends on the set of terms alone, and no range has to be
known before: the highest digit is that of the largest term.

Let M be the largest |weight times value| of a coordinate over the K updates. Its weighted sum is within K M 2^-21 of
the exact one: terms are rounded to float32 and cut below 2^-24 M, and the result is rounded to float32. The sums
cannot overflow, because `width` leaves room for K terms. A coordinate with a term that is not finite becomes NaN.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import trees
from fedjax_mri.fed.uplink.contract import Aggregate, PyTree, Reduce, RoundContext, State, Update
from fedjax_mri.fed.uplink.reductions.mean import mean

KEPT_BITS = 24  # kept below the highest digit, whatever the width
MORE_BITS = 31  # of an int32 beside its sign
NOT_FINITE = 1000  # stands for the highest digit of an infinity and of NaN; finite floats have lower ones


@dataclass(frozen=True)
class Exact:
    """Settings of the weighted mean that does not depend on the order in which updates are added."""

    divisor: Literal["realised", "expected"] = "realised"  # the cohort's weights, or those of an average cohort

    def build(self) -> Reduce:
        """Returns the reduction that these settings describe."""
        return exact(self.divisor)


class DigitSums(NamedTuple):
    """The sum of terms of a coordinate by digits: sums[d] is the sum of their digits of weight `highest` - d."""

    highest: jax.Array  # int32 [...]
    sums: tuple[jax.Array, ...]  # int32 [...] each


class Total(NamedTuple):
    """What has been added so far."""

    terms: PyTree  # DigitSums in place of each leaf of (delta, auxiliary, weight)
    clients: jax.Array  # float32 [], a whole number


def exact(divisor: Literal["realised", "expected"] = "realised") -> Reduce:
    """Returns the reduction; `divisor` is that of `mean`."""

    def zero(sent: Update, cohort_size: int) -> Total:
        empty = lambda leaf: no_terms(leaf.shape, digits_for(cohort_size))  # noqa: E731
        return Total(jax.tree.map(empty, (sent.delta, sent.auxiliary, sent.weight)), jnp.float32(0))

    def add(total: Total, updates: Update, places: jax.Array) -> Total:
        sent = places >= 0
        terms = jax.vmap(trees.scale)(updates.weight, (updates.delta, updates.auxiliary, jnp.ones_like(updates.weight)))
        terms = trees.select(sent, terms, trees.zeros_like(terms))
        sums = jax.tree.map(add_terms, terms, total.terms)
        return Total(sums, total.clients + jnp.sum(sent).astype(jnp.float32))

    def finish(total: Total, state: State, at: RoundContext) -> tuple[Aggregate, State]:
        delta, auxiliary, weight = jax.tree.map(value, total.terms, is_leaf=is_digit_sums)
        return mean(divisor).finish(((delta, auxiliary), weight, total.clients), state, at)

    check = mean(divisor).check_compatible
    return Reduce("exact", zero, add, finish, merge=merge, linear=True, check_compatible=check)


def merge(total: Total, axis: str) -> Total:
    """Returns the sum over the mesh axis."""
    highest = jax.lax.pmax(jax.tree.map(lambda one: one.highest, total.terms, is_leaf=is_digit_sums), axis)
    moved = jax.tree.map(lambda high, one: moved_to(one, high).sums, highest, total.terms)
    sums, clients = jax.lax.psum((moved, total.clients), axis)
    return Total(jax.tree.map(DigitSums, highest, sums), clients)


def is_digit_sums(node: PyTree) -> bool:
    """Returns whether a node of a tree is the sum of a leaf's terms."""
    return isinstance(node, DigitSums)


def digits_for(terms: int) -> int:
    """Returns how many digits are kept: as few as leave room for the sum of `terms` digits in an int32."""
    return next(count for count in range(2, 2 + KEPT_BITS) if terms << width(count) < 1 << MORE_BITS)


def width(digits: int) -> int:
    """Returns the bits of a digit, where so many digits are kept."""
    return -(-KEPT_BITS // (digits - 1))


def no_terms(shape: tuple[int, ...], digits: int) -> DigitSums:
    """Returns the sum of no terms."""
    return DigitSums(jnp.zeros(shape, jnp.int32), (jnp.zeros(shape, jnp.int32),) * digits)


def add_terms(terms: jax.Array, total: DigitSums) -> DigitSums:
    """Returns `total` [...] plus `terms` float32 [L, ...]."""
    bits = width(len(total.sums))
    exponent = jax.lax.bitcast_convert_type(jnp.abs(terms), jnp.int32) >> 23  # plus 127; 255 if not finite
    digit = jax.lax.div(exponent, jnp.int32(bits))  # exponents are not negative: quicker than //
    highest = jnp.maximum(total.highest, jnp.where(exponent == 255, NOT_FINITE, digit).max(0))
    rest, sums = terms * power_of_two(127 - bits * highest)[None], []
    for before in moved_to(total, highest).sums:
        digit = jnp.trunc(rest)
        sums.append(before + digit.astype(jnp.int32).sum(0))
        rest = (rest - digit) * 2.0**bits
    return DigitSums(highest, tuple(sums))


def moved_to(total: DigitSums, highest: jax.Array) -> DigitSums:
    """Returns `total` with another highest digit, int32 [...], not below its own; the lowest sums are dropped."""
    down, moved = highest - total.highest, []
    for number in range(len(total.sums)):
        chosen = jnp.zeros_like(total.sums[0])
        for steps in range(number + 1):
            chosen = jnp.where(down == steps, total.sums[number - steps], chosen)
        moved.append(chosen)
    return DigitSums(highest, tuple(moved))


def value(total: DigitSums) -> jax.Array:
    """Returns the sum as float32 [...]; NaN where a term was not finite."""
    bits, whole = width(len(total.sums)), jnp.zeros_like(total.highest, jnp.float32)
    for digit in reversed(total.sums):
        whole = digit.astype(jnp.float32) + whole * 2.0**-bits
    scaled = 0.5 * whole * power_of_two(bits * total.highest - 126)
    return jnp.where(total.highest == NOT_FINITE, jnp.nan, scaled)


def power_of_two(exponent: jax.Array) -> jax.Array:
    """Returns 2^exponent as float32, for exponents int32 [...] from -126 to 127."""
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)
