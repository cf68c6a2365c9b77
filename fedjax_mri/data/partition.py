"""How examples that come without sites are dealt out to hospitals; groups of duplicates are never torn apart.

Every partition is a frozen dataclass whose `split(labels [n], groups [n], rng)` gives the example indices of each of
N clients: every example exactly once, all examples of a group at the same client. Labels are 0..C-1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError


@dataclass(frozen=True)
class IID:
    """Equal shares, drawn at random."""

    clients: int

    def split(self, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns the examples of each client, whose sizes differ by one at most, but for what intact groups cost."""
        units = _units(labels, groups, self.clients)
        room = apportion(np.ones(self.clients), len(labels))
        return _parts(_deal(units.size, room, rng)[units.of], self.clients)


@dataclass(frozen=True)
class Sizes:
    """Given client sizes, drawn at random; proportions where they do not add up to the number of examples."""

    sizes: tuple[int, ...]

    def split(self, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns the examples of each client, exactly of these sizes but for what intact groups cost."""
        if any(size <= 0 for size in self.sizes):
            raise UserError(f"sizes {self.sizes}: every client needs a size of 1 or more")
        units = _units(labels, groups, len(self.sizes))
        room = apportion(np.array(self.sizes), len(labels))
        return _parts(_deal(units.size, room, rng)[units.of], len(self.sizes))


@dataclass(frozen=True)
class Quantity:
    """Log-normal client sizes of spread `sigma`, one example at least; labels are drawn at random."""

    clients: int
    sigma: float

    def split(self, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns the examples of each client; with sigma = 0 that is as of `IID`."""
        if not 0 <= self.sigma < math.inf:
            raise UserError(f"sigma {self.sigma}: the spread of client sizes must be 0 or more, and finite")
        units = _units(labels, groups, self.clients)
        log_size = self.sigma * rng.standard_normal(self.clients)
        room = 1 + apportion(np.exp(log_size - log_size.max()), len(labels) - self.clients)
        return _parts(_deal(units.size, room, rng)[units.of], self.clients)


@dataclass(frozen=True)
class Dirichlet:
    """Label skew: each class is shared out in proportions drawn from Dir(alpha), small alpha meaning few classes each.

    Yurochkin et al. 2019, https://arxiv.org/abs/1905.12022; drawn again until every client has `minimum` examples,
    as in Li et al. 2022, https://arxiv.org/abs/2102.02079.
    """

    clients: int
    alpha: float
    minimum: int = 1

    def split(self, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns the examples of each client.

        Raises UserError where a hundred draws leave some client below the minimum.
        """
        if not 0 < self.alpha < math.inf:
            raise UserError(f"alpha {self.alpha}: the Dirichlet concentration must be above 0, and finite")
        units = _units(labels, groups, self.clients)
        for _ in range(100):
            parts = _parts(self._draw(units, rng)[units.of], self.clients)
            if min(len(part) for part in parts) >= self.minimum:
                return parts
        raise UserError(
            f"Dirichlet alpha {self.alpha} left some of {self.clients} clients with fewer than {self.minimum} of the "
            f"{len(labels)} examples in 100 draws: take fewer clients, a larger alpha or minimum=0"
        )

    def _draw(self, units: "_Units", rng: np.random.Generator) -> np.ndarray:
        owner = np.zeros(len(units.size), np.int64)
        for label in np.unique(units.label):
            mine = np.flatnonzero(units.label == label)
            share = rng.dirichlet(np.full(self.clients, self.alpha))
            owner[mine] = _deal(units.size[mine], apportion(share, units.size[mine].sum()), rng)
        return owner


@dataclass(frozen=True)
class Shards:
    """Label skew: examples sorted by label, cut into equal shards, `per_client` random shards to each client.

    McMahan et al. 2017, https://arxiv.org/abs/1602.05629, section 3.
    """

    clients: int
    per_client: int = 2

    def split(self, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns the examples of each client; a group belongs to the shard that its middle falls in."""
        if self.per_client < 1:
            raise UserError(f"per_client {self.per_client}: every client needs one shard or more")
        shards = self.clients * self.per_client
        units = _units(labels, groups, self.clients, at_least=shards)
        shuffled = rng.permutation(len(units.size))
        order = shuffled[np.argsort(units.label[shuffled], kind="stable")]
        middle = np.cumsum(units.size[order]) - units.size[order] / 2
        owner = np.empty(len(order), np.int64)
        dealt = rng.permutation(np.repeat(np.arange(self.clients), self.per_client))
        owner[order] = dealt[(middle * (shards / len(labels))).astype(np.int64)]
        return _parts(owner[units.of], self.clients)


@dataclass(frozen=True)
class Similarity:
    """Label skew: the share `gamma` of the examples is dealt out at random, the rest sorted by label, in equal parts.

    Karimireddy et al. 2020, https://arxiv.org/abs/1910.06378, section 7. `clients_of_one` further clients get one
    example each, such as attackers that need none.
    """

    clients: int
    gamma: float = 0.5
    clients_of_one: int = 0

    def split(self, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns the examples of each client, whose sizes differ by two at most, but for what intact groups cost."""
        if not 0 <= self.gamma <= 1 or self.clients_of_one < 0:
            given = f"gamma {self.gamma}, clients_of_one {self.clients_of_one}"
            raise UserError(f"{given}: give a share from 0 to 1, and 0 clients or more")
        units = _units(labels, groups, self.clients + self.clients_of_one)
        order, owner = rng.permutation(len(units.size)), np.empty(len(units.size), np.int64)
        alone, rest = np.split(order, [self.clients_of_one])
        similar, skewed = np.split(rest, [round(self.gamma * len(rest))])
        owner[alone] = self.clients + np.arange(self.clients_of_one)
        for part in (similar, skewed[np.argsort(units.label[skewed], kind="stable")]):
            owner[part] = np.arange(len(part)) * self.clients // max(len(part), 1)
        return _parts(owner[units.of], self.clients + self.clients_of_one)


Partition = IID | Sizes | Quantity | Dirichlet | Shards | Similarity


def holdout(
    labels: np.ndarray, groups: np.ndarray, share: float, rng: np.random.Generator, least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices that are left and those held out: `share` of every class, and no group is on both sides.

    Of every class at least `least` examples are held out, and at least one group; nothing of a class of one group, or
    with `least` 0 of two.
    """
    if not 0 < share < 1:
        raise UserError(f"holdout {share}: the share held out must lie between 0 and 1")
    units = _units(labels, groups, 1)
    side = np.zeros(len(units.size), np.int64)
    for label in np.unique(units.label):
        mine = np.flatnonzero(units.label == label)
        total = units.size[mine].sum()
        enough = len(mine) > (1 if least else 2)
        held = max(least, round(share * total), units.size[mine].min()) if enough else 0
        side[mine] = _deal(units.size[mine], np.array([total - held, held]), rng)
    train, test = _parts(side[units.of], 2)
    return train, test


def follow(labels: np.ndarray, groups: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns test examples dealt to N clients, each class in proportion to what they train on of it, counts [N, C].

    A group goes to one client as a whole.
    """
    if len(labels) == 0:
        return [np.empty(0, np.int64)] * len(counts)
    units = _units(labels, groups, 1)
    owner = np.empty(len(units.size), np.int64)
    for label in np.unique(units.label):
        mine = np.flatnonzero(units.label == label)
        owner[mine] = _deal(units.size[mine], apportion(counts[:, label], units.size[mine].sum()), rng)
    return _parts(owner[units.of], len(counts))


def apportion(weights: np.ndarray, n: int) -> np.ndarray:
    """Returns whole numbers [N] in proportion to the weights [N] that add up to n, by largest remainder."""
    if n == 0:
        return np.zeros(len(weights), np.int64)
    share = weights * (n / weights.sum())
    whole = np.floor(share).astype(np.int64)
    whole[np.argsort(whole - share, kind="stable")[: n - whole.sum()]] += 1
    return whole


class _Units(NamedTuple):
    """The G groups that are dealt to clients."""

    of: np.ndarray  # int [n], the group of each example, 0..G-1
    size: np.ndarray  # int [G]
    label: np.ndarray  # int [G], the commonest label in the group


def _units(labels: np.ndarray, groups: np.ndarray, clients: int, at_least: int = 0) -> _Units:
    if clients < 1:
        raise UserError(f"{clients} clients: a federation needs 1 or more")
    _, of, size = np.unique(groups, return_inverse=True, return_counts=True)
    need = max(clients, at_least)
    if need > len(size):
        what = f"{clients} clients" if need == clients else f"{clients} clients of {need // clients} shards"
        raise UserError(f"{what} need {need} examples that are not duplicates, there are {len(size)}: ask for fewer")
    votes = np.zeros((len(size), labels.max() + 1), np.int32)
    np.add.at(votes, (of, labels), 1)
    return _Units(of, size, votes.argmax(1))


def _deal(size: np.ndarray, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns owners [G] of groups of the given size [G] among clients with room [N]; sum(size) == sum(room).

    Large groups go first, to a random client that has the room; single examples then fill what is left.
    """
    owner, room = np.empty(len(size), np.int64), room.copy()
    several = rng.permutation(np.flatnonzero(size > 1))
    for group in several[np.argsort(-size[several], kind="stable")]:
        fits = np.where(room >= size[group], room, 0)
        owner[group] = rng.choice(len(room), p=fits / fits.sum()) if fits.any() else room.argmax()
        room[owner[group]] -= size[group]
    single = rng.permutation(np.flatnonzero(size == 1))
    owner[single] = np.repeat(np.arange(len(room)), apportion(np.maximum(room, 0), len(single)))
    return owner


def _parts(owner: np.ndarray, clients: int) -> list[np.ndarray]:
    """Returns indices per client, ascending, from the owner [n] of each example."""
    ends = np.cumsum(np.bincount(owner, minlength=clients))
    return np.split(np.argsort(owner, kind="stable"), ends[:-1])
