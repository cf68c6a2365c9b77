"""The server's side: it gathers the messages of one step after another, and closes a step when it waits no longer.

    R0 keys -> R1 shares -> R2 masked vectors -> R3 agreement -> R4 shares of secrets -> the sum

`receive` takes up a message or refuses it by name. `close` ends a step: what comes later for it is refused as late, and
a client that was missing has dropped out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.secure import crypto, shamir, wire
from fedjax_mri.secure.client import enough, pair_key
from fedjax_mri.secure.faults import Fault, require
from fedjax_mri.secure.wire import Advertise, Agreement, Masked, Session, Shares, Unmask

STEPS = (Advertise, Shares, Masked, Agreement, Unmask)  # R0 to R4: what clients send


class State(NamedTuple):
    """What the server has in step `step` of 0 to 4. Nothing in it is secret."""

    session: Session
    step: int
    members: tuple[int, ...]  # clients that may send in this step
    received: Mapping[int, Any]  # client -> its message of this step
    signed: Mapping[int, bytes]  # the same as it came
    keys: Mapping[int, Advertise]
    shared: tuple[int, ...] = ()  # clients whose shares came
    sent: tuple[int, ...] = ()  # clients whose masked vectors came
    total: np.ndarray | None = None  # uint32 [d], the sum of those


def start(session: Session) -> State:
    """Returns the state of a server that waits for the keys of clients."""
    wire.checked(session)
    return State(session, 0, tuple(sorted(session.identities)), {}, {}, {})


def receive(state: State, data: bytes) -> tuple[State, int]:
    """Returns the state with one more message, and whose it is. Raises Refused for one that does not belong here.

    Masked vectors are added up as they come.
    """
    client, message = wire.decode(state.session, data)
    require(client != wire.SERVER, Fault.SENDER, "the server itself")
    require(type(message) in STEPS, Fault.SENDER, f"{type(message).__name__}, which the server alone sends")
    step, what = STEPS.index(type(message)), f"{type(message).__name__} of client {client}"
    require(step >= state.step, Fault.LATE, what)
    require(step <= state.step, Fault.EARLY, what)
    require(client in state.members, Fault.MEMBERS, what)
    require(client not in state.received, Fault.REPEATED, what)
    total = state.total
    if isinstance(message, Masked):
        right = len(message.words) == state.session.length
        require(right, Fault.LENGTH, f"{what} has {len(message.words)} values, not {state.session.length}")
        total = message.words if total is None else total + message.words
        message, data = Masked(message.words[:0]), b""
    received, signed = {**state.received, client: message}, {**state.signed, client: data}
    return state._replace(received=received, signed=signed, total=total), client


def close(state: State) -> tuple[State, dict[int, bytes]]:
    """Returns the state of the next step, R1 to R4, and the message to each client that is still there.

    Raises Refused if these are fewer than the threshold: the round is lost then, and no vector is known.
    """
    present = tuple(sorted(state.received))
    enough(state.session, set(present), f"are left after R{state.step}")
    after = State(state.session, state.step + 1, present, {}, {}, state.keys, state.shared, state.sent, state.total)
    texts = tuple(state.signed[client] for client in present)
    message: wire.Message
    match state.step:
        case 0:
            after, message = after._replace(keys=dict(state.received)), wire.Roster(texts)
        case 1:
            return after._replace(shared=present), _encoded(state, _inboxes(state))
        case 2:
            dropped = tuple(client for client in state.shared if client not in present)
            after, message = after._replace(sent=present), wire.Survivors(present, dropped)
        case _:
            message = wire.Agreements(texts)
    return after, _encoded(state, dict.fromkeys(present, message))


def finish(state: State) -> np.ndarray:
    """Returns the sum of the survivors' vectors, uint32 [d] modulo 2^32, from the shares of R4.

    Raises Refused if they are too few, or a secret that they restore is not the one its client has committed to.
    """
    session = state.session
    require(state.step == 4 and state.total is not None, Fault.EARLY, "the sum")
    assert state.total is not None
    enough(session, state.received, "have sent shares of secrets")
    total = state.total.copy()
    for client in state.sent:
        seed = _restored(state, client, 0)
        right = seed is not None and crypto.commitment(seed) == state.keys[client].seed_commitment
        require(right, Fault.SHARES, f"of the seed of client {client}")
        assert seed is not None
        crypto.add_mask(total, crypto.derive_key(seed, session.context, "self", client), -1)
    for client in state.shared:
        if client in state.sent:
            continue
        secret = _restored(state, client, 1)
        right = secret is not None and crypto.agreement_pair_of(secret).public == state.keys[client].mask_key
        require(right, Fault.SHARES, f"of the secret key of client {client}")
        assert secret is not None
        for other in state.sent:
            key = pair_key(session, crypto.shared_secret(secret, state.keys[other].mask_key), client, other)
            crypto.add_mask(total, key, -1 if client > other else 1)
    return total


def _inboxes(state: State) -> dict[int, wire.Inbox]:
    """Returns the shares for each client that has sent its own; others get none."""
    boxes: dict[int, list[tuple[int, bytes]]] = {client: [] for client in sorted(state.received)}
    for source, message in sorted(state.received.items()):
        for destination, sealed in message.sealed:
            if destination in boxes:
                boxes[destination].append((source, sealed))
    return {client: wire.Inbox(tuple(box)) for client, box in boxes.items()}


def _encoded(state: State, messages: Mapping[int, Any]) -> dict[int, bytes]:
    return {client: wire.encode(state.session, wire.SERVER, message) for client, message in messages.items()}


def _restored(state: State, owner: int, kind: int) -> bytes | None:
    """Returns the seed (kind 0) or the secret key (kind 1) of a client; None if its shares belong to no secret."""
    given = {client: dict(message[kind]).get(owner, b"") for client, message in state.received.items()}
    shares = {client + 1: int.from_bytes(share, "big") for client, share in given.items()}
    secret = shamir.restore(shares, state.session.threshold)
    fits = secret is not None and secret < 2 ** (8 * crypto.KEY_BYTES)
    return secret.to_bytes(crypto.KEY_BYTES, "big") if secret is not None and fits else None
