"""A client's side: a state for each step, and what it answers to the server's message of that step.

    Advertised -> Shared -> Sent -> Confirmed -> Done

`start` gives the first state, and `answer` the next one with the message to send. A state is used once: a client that
keeps the newest alone cannot be made to answer twice. Whatever a server could not know from an honest round is refused;
the client then leaves the round, and its vector stays hidden.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fedjax_mri.secure import crypto, shamir, wire
from fedjax_mri.secure.crypto import Entropy, KeyPair
from fedjax_mri.secure.faults import Fault, Refused, require
from fedjax_mri.secure.wire import Advertise, Agreement, Agreements, Inbox, Roster, Session, Survivors

HeldShares = Mapping[int, tuple[bytes, bytes]]  # client -> shares of its seed and of its secret key


class Identity(NamedTuple):
    """What a client is in a round."""

    session: Session
    number: int
    signing: bytes  # secret half of its key of Ed25519


class Advertised(NamedTuple):
    """State after R0: the client waits for the keys of the others."""

    identity: Identity
    mask: KeyPair
    channel: KeyPair
    seed: bytes


class Shared(NamedTuple):
    """State after R1: it waits for the shares of the others."""

    identity: Identity
    mask: KeyPair
    channel: KeyPair
    seed: bytes
    roster: Mapping[int, Advertise]
    kept: tuple[bytes, bytes]  # its share of its own seed and of its own secret key


class Sent(NamedTuple):
    """State after R2: its masked vector is sent, and it waits for the names of those that have done the same."""

    identity: Identity
    held: HeldShares


class Confirmed(NamedTuple):
    """State after R3: it waits for the confirmation of the others that they were told of the same survivors."""

    identity: Identity
    held: HeldShares
    survivors: Survivors


class Done(NamedTuple):
    """State after R4: it gives no more shares."""

    identity: Identity


State = Advertised | Shared | Sent | Confirmed | Done


def start(session: Session, number: int, signing: KeyPair, entropy: Entropy) -> tuple[Advertised, bytes]:
    """Returns the state of client `number` at the beginning of a round, and its message R0, with fresh keys."""
    wire.checked(session)
    known = session.identities.get(number) == signing.public
    require(known, Fault.SENDER, f"client {number} is not in the session, or with another key")
    identity, mask, channel = (
        Identity(session, number, signing.secret),
        *(crypto.agreement_pair(entropy) for _ in range(2)),
    )
    seed = entropy(crypto.KEY_BYTES)
    message = Advertise(mask.public, channel.public, crypto.commitment(seed))
    return Advertised(identity, mask, channel, seed), wire.encode(session, number, message, identity.signing)


def answer(state: State, data: bytes, words: np.ndarray, entropy: Entropy) -> tuple[State, bytes]:
    """Returns the next state and the answer to a message of the server. `words` uint32 [d] is the client's vector.

    Raises Refused for a message that an honest server would not send now.
    """
    sender, message = wire.decode(state.identity.session, data)
    require(sender == wire.SERVER, Fault.SENDER, f"client {sender} in place of the server")
    match state, message:
        case Advertised(), Roster():
            return share(state, message, entropy)
        case Shared(), Inbox():
            return mask(state, message, words)
        case Sent(), Survivors():
            return confirm(state, message)
        case Confirmed(), Agreements():
            return unmask(state, message)
    steps = (Roster, Inbox, Survivors, Agreements)
    require(type(message) in steps, Fault.SENDER, f"{type(message).__name__}, which clients alone send")
    done = steps.index(type(message)) < (Advertised, Shared, Sent, Confirmed, Done).index(type(state))
    fault = Fault.REPEATED if done else Fault.EARLY
    raise Refused(fault, f"{type(message).__name__} to client {state.identity.number}, which is {type(state).__name__}")


def share(state: Advertised, message: Roster, entropy: Entropy) -> tuple[Shared, bytes]:
    """R1: returns the client's shares for each client of the roster, encrypted for it."""
    session, number, _ = state.identity
    roster = verified_roster(state, message)
    points = [client + 1 for client in roster]
    secrets = (int.from_bytes(secret, "big") for secret in (state.seed, state.mask.secret))
    divided = zip(*(shamir.divide(secret, session.threshold, points, entropy) for secret in secrets))
    pairs = {
        client: tuple(one.to_bytes(shamir.SHARE_BYTES, "big") for one in both) for client, both in zip(roster, divided)
    }
    sealed = []
    for client in sorted(roster.keys() - {number}):
        key = crypto.derive_key(agreed_channel(state, roster[client]), session.context, "channel", number, client)
        plain, nonce = b"".join(pairs[client]), entropy(crypto.NONCE_BYTES)
        sealed.append((client, crypto.encrypt(key, nonce, plain, associated_data(session, number, client))))
    seed_share, key_share = pairs[number]
    after = Shared(*state, roster, (seed_share, key_share))
    return after, wire.encode(session, number, wire.Shares(tuple(sealed)), state.identity.signing)


def verified_roster(state: Advertised, message: Roster) -> dict[int, Advertise]:
    """Returns the keys of all clients of a roster by their numbers, in order.

    Refuses unsigned and repeated ones, keys that two clients have, a roster without this client's own keys, and one of
    too few clients.
    """
    session, number, _ = state.identity
    found = dict[int, Advertise]()
    for signed in message.signed:
        client, keys = wire.decode(session, signed)
        require(isinstance(keys, Advertise) and client not in found, Fault.REPEATED, f"client {client} in the roster")
        assert isinstance(keys, Advertise)
        found[client] = keys
    public = [key for keys in found.values() for key in (keys.mask_key, keys.channel_key)]
    require(len(set(public)) == len(public), Fault.KEYS, "two clients of the roster have the same")
    own = Advertise(state.mask.public, state.channel.public, crypto.commitment(state.seed))
    require(found.get(number) == own, Fault.KEYS, f"the roster has others for client {number} than it sent")
    enough(session, found, "in the roster")
    return dict(sorted(found.items()))


def mask(state: Shared, message: Inbox, words: np.ndarray) -> tuple[Sent, bytes]:
    """R2: returns the client's masked vector. Refuses shares that were changed, and values that could overflow."""
    session, number, signing = state.identity
    require(words.shape == (session.length,), Fault.LENGTH, f"a vector of {words.shape}, not {session.length} values")
    most = (2**31 - 1) // len(session.identities)
    signed = words.view(np.int32)
    fits = bool(signed.max() <= most and signed.min() >= -most)
    require(fits, Fault.RANGE, f"client {number} has a value beyond {most} of {len(session.identities)} clients")
    held = {number: state.kept}
    for client, sealed in message.sealed:
        require(client in state.roster and client not in held, Fault.MEMBERS, f"a share of client {client}")
        secret = agreed_channel(state, state.roster[client])
        key = crypto.derive_key(secret, session.context, "channel", client, number)
        plain = crypto.decrypt(key, sealed, associated_data(session, client, number))
        valid = plain is not None and len(plain) == 2 * shamir.SHARE_BYTES
        require(valid, Fault.SHARES, f"of client {client} to client {number}")
        assert plain is not None
        held[client] = plain[: shamir.SHARE_BYTES], plain[shamir.SHARE_BYTES :]
    enough(session, held, "have sent shares")
    masked = words.astype(np.uint32)
    crypto.add_mask(masked, crypto.derive_key(state.seed, session.context, "self", number), 1)
    for client in held:
        if client != number:
            secret = crypto.shared_secret(state.mask.secret, state.roster[client].mask_key)
            crypto.add_mask(masked, pair_key(session, secret, number, client), 1 if client > number else -1)
    return Sent(state.identity, held), wire.encode(session, number, wire.Masked(masked), signing)


def confirm(state: Sent, message: Survivors) -> tuple[Confirmed, bytes]:
    """R3: returns the signed survivors. Refuses them if they are too few, or do not part those of R1 in two."""
    session, number, signing = state.identity
    sent, dropped = set(message.sent), set(message.dropped)
    require(not sent & dropped, Fault.OVERLAP, ", ".join(map(str, sorted(sent & dropped))))
    whole = sent | dropped == set(state.held) and len(sent) + len(dropped) == len(message.sent) + len(message.dropped)
    require(whole and number in sent, Fault.MEMBERS, f"survivors and others, as client {number} is told of them")
    enough(session, sent, "have sent a vector")
    return Confirmed(*state, message), wire.encode(session, number, Agreement(*message), signing)


def unmask(state: Confirmed, message: Agreements) -> tuple[Done, bytes]:
    """R4: returns shares of the seeds of survivors and of the keys of the others, and never both of one client."""
    session, number, signing = state.identity
    agreeing = set[int]()
    for signed in message.signed:
        client, theirs = wire.decode(session, signed)
        require(isinstance(theirs, Agreement) and client not in agreeing, Fault.REPEATED, f"agreement of {client}")
        require(client in state.survivors.sent, Fault.MEMBERS, f"agreement of client {client}")
        same = tuple(theirs) == tuple(state.survivors)
        require(same, Fault.DISAGREEMENT, f"client {client} than client {number}")
        agreeing.add(client)
    enough(session, agreeing, "agree on the survivors")
    seeds = tuple((client, state.held[client][0]) for client in state.survivors.sent)
    keys = tuple((client, state.held[client][1]) for client in state.survivors.dropped)
    return Done(state.identity), wire.encode(session, number, wire.Unmask(seeds, keys), signing)


def enough(session: Session, clients: Mapping[int, object] | set[int], what: str) -> None:
    """Refuses fewer clients than the threshold."""
    require(len(clients) >= session.threshold, Fault.THRESHOLD, f"{len(clients)} of {session.threshold} {what}")


def agreed_channel(state: Advertised | Shared, theirs: Advertise) -> bytes:
    """Returns the secret of two clients from which they derive the keys of their shares."""
    return crypto.shared_secret(state.channel.secret, theirs.channel_key)


def associated_data(session: Session, source: int, destination: int) -> bytes:
    """Returns what an encrypted share is bound to: session, round, from whom and for whom."""
    return session.context + wire.NUMBER.pack(source) + wire.NUMBER.pack(destination)


def pair_key(session: Session, secret: bytes, one: int, other: int) -> bytes:
    """Returns the key of the mask that two clients share."""
    return crypto.derive_key(secret, session.context, "pair", min(one, other), max(one, other))
