"""Speeds at which clients compute and send: drawn once for each client, or read from a table."""

import csv
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core import checks, keys
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.core.fields import Seed
from fedjax_mri.fed.traffic import Traffic

COLUMNS = ("client", "steps_per_s", "mbit_per_s")


class Speeds(NamedTuple):
    """Speeds of all clients; fields float32 [N]."""

    steps_per_s: jax.Array  # local steps in a second
    up: jax.Array  # Mbit/s to the server
    down: jax.Array  # Mbit/s from the server


@dataclass(frozen=True)
class ClientSpeeds:
    """Settings of clients' speeds: log-normal, or a table. Drawn speeds do not depend on the number of clients."""

    steps_per_s: float = 10.0  # median of local steps in a second
    steps_sigma: float = 0.5  # standard deviation of the logarithm
    mbit_up: float = 10.0  # median, Mbit/s to the server
    mbit_down: float = 50.0  # median, Mbit/s from the server
    mbit_sigma: float = 0.5  # standard deviation of the logarithm; the factor is the same in both directions
    correlation: float = 0.0  # between the logarithms of computing and link speed
    table: str = ""  # a CSV file client,steps_per_s,mbit_per_s with a line for each client, instead of the above
    seed: Seed = 0

    def build(self, clients: int) -> Speeds:
        """Returns the speeds of all clients. Raises UserError on numbers out of range or a table that is incomplete."""
        if self.table:
            return speeds_from_table(self.table, clients)
        self._check()
        each = keys.fold_in_each(jax.random.key(self.seed), jnp.arange(clients))
        first, second = jax.vmap(lambda key: jax.random.normal(key, (2,), jnp.float32))(each).T
        second = self.correlation * first + jnp.sqrt(jnp.float32(1) - jnp.square(self.correlation)) * second
        link = jnp.exp(self.mbit_sigma * second)
        return Speeds(self.steps_per_s * jnp.exp(self.steps_sigma * first), self.mbit_up * link, self.mbit_down * link)

    def _check(self) -> None:
        for name in ("steps_per_s", "mbit_up", "mbit_down"):
            checks.positive(f"speeds.{name}", getattr(self, name))
        for name, least, most in (("steps_sigma", 0, 10), ("mbit_sigma", 0, 10), ("correlation", -1, 1)):
            value = getattr(self, name)
            if is_concrete(value) and not least <= value <= most:
                raise UserError(f"speeds.{name}={value}: must be from {least} to {most}")


def link_seconds(speeds: Speeds, traffic: Traffic) -> jax.Array:
    """Returns the seconds that broadcast and update of each client take together, float32 [N]."""
    return 8.0 * (traffic.down / 1e6 / speeds.down + traffic.up / 1e6 / speeds.up)


def speeds_from_table(path: str, clients: int) -> Speeds:
    """Returns speeds from a CSV file; both directions of a link are equally fast.

    Raises UserError unless the file names each client once.
    """
    rows = dict(_rows(path))
    missing = [client for client in range(clients) if client not in rows]
    if missing or len(rows) > clients:
        problem = f"client {missing[0]} is missing" if missing else f"names {len(rows)} clients"
        raise UserError(f"{path}: {problem}; give one line for each client from 0 to {clients - 1}")
    steps, mbit = jnp.asarray([rows[client] for client in range(clients)], jnp.float32).T
    return Speeds(steps, mbit, mbit)


def _rows(path: str) -> list[tuple[int, tuple[float, float]]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a table of speeds: {error}") from None
    rows = [_row(path, number, line) for number, line in enumerate(lines, 2)]
    if len({client for client, _ in rows}) < len(rows):
        raise UserError(f"{path}: names a client twice; give one line for each")
    return rows


def _row(path: str, number: int, line: dict[str, str]) -> tuple[int, tuple[float, float]]:
    try:
        client, steps, mbit = (kind(line[name]) for kind, name in zip((int, float, float), COLUMNS))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}, line {number}: must be numbers under the header {','.join(COLUMNS)}") from None
    if not (0 < steps < math.inf and 0 < mbit < math.inf):
        raise UserError(f"{path}, line {number}: speeds {steps:g} and {mbit:g} must be above 0")
    return client, (steps, mbit)
