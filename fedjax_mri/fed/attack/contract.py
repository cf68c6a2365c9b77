"""The contract of an attack: what attackers do to their examples, to their own updates, or with everyone's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import checks
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.data.contract import Batch
from fedjax_mri.fed.uplink.contract import PyTree, State, Update, no_state


class AttackerView(NamedTuple):
    """What an omniscient attacker sees of a round before the server combines its K updates."""

    rows: PyTree  # [K, ...], what each client would send; zeros at places without an update
    honest: jax.Array  # float32 [K], 1 at updates of clients that do not attack
    attacking: jax.Array  # float32 [K], 1 at updates of attackers
    aggregate: Callable[[PyTree], PyTree]  # what attackers send [...] -> what the reduction in force makes of all
    # (a, b) -> (x -> how far the aggregate is from the honest mean when attackers send b + x (a - b)). a is an update;
    # b is given by what each of the K rows and zero count in it, float32 [K + 1]. None where the reduction is no rule.
    error_along: Callable[[PyTree, jax.Array], Callable[[jax.Array], jax.Array]] | None = None


Poison = Callable[[Batch, jax.Array], Batch]  # (examples [B, ...], a key for each [B]) -> what they become
Send = Callable[[PyTree, jax.Array], PyTree]  # (the client's honest delta, key) -> what it sends
Craft = Callable[
    [AttackerView, State], tuple[PyTree, State]
]  # -> what every attacker sends, and the attack's new state


class Attack(NamedTuple):
    """What attackers do. Parts that are None do nothing; an attack may have several."""

    name: str
    poison: Poison | None = None
    fields: tuple[str, ...] = ()  # of a batch that `poison` changes
    poisoned: float = 1.0  # share of an attacker's examples that `poison` changes
    measured: bool = False  # whether a test set of poisoned examples shows how often the model obeys attackers
    repeats: int = 1  # how often it reads each of its first examples, in place of the others
    send: Send | None = None
    craft: Craft | None = None
    init: Callable[[Update], State] = no_state  # shapes of what clients send -> first state of `craft`


@dataclass(frozen=True)
class Attackers:
    """Who attacks: the fields that the settings of all attacks have."""

    share: float = 0.2  # of all clients, drawn by `seed`, if `clients` names none
    clients: tuple[int, ...] = ()  # the numbers of those that attack
    seed: int = 0  # of who attacks, and of which examples are poisoned

    def __post_init__(self) -> None:
        checks.share("attack.share", self.share)


class Settings(Protocol):
    """A frozen dataclass of settings: one attack. Those of `Attackers` say by whom; `Off` has none of them."""

    def build(self, classes: int) -> Attack | None:
        """Returns the attack on a task with so many classes, None for no attack. Raises UserError on bad settings."""
        ...


def attackers(settings: Any, clients: int) -> jax.Array:
    """Returns which of so many clients attack, bool [N].

    Raises UserError where one is named that does not exist, or twice, and for a share that is nobody or everyone.
    """
    if not isinstance(settings, Attackers):
        return jnp.zeros(clients, bool)
    if unknown := [client for client in settings.clients if not 0 <= client < clients]:
        raise UserError(f"attack.clients={unknown[0]}: there are {clients} clients; give numbers from 0")
    if len(set(settings.clients)) < len(settings.clients):
        raise UserError(f"attack.clients={','.join(map(str, settings.clients))}: name each client once")
    if settings.clients:
        return jnp.zeros(clients, bool).at[np.asarray(settings.clients)].set(True)
    rank = np.random.default_rng(settings.seed).permutation(clients)
    if is_concrete(settings.share) and not 0 < (count := round(settings.share * clients)) < clients:
        raise UserError(
            f"attack.share={settings.share}: of {clients} clients {count} would attack; give a share by which some and "
            "not all do, name them by --attack.clients, or choose --fed.attack off"
        )
    share = np.float64(settings.share) if is_concrete(settings.share) else settings.share
    return jnp.asarray(rank, jnp.float32) < jnp.round(share * clients)
