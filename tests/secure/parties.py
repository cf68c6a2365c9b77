"""Clients and a server in one process, with randomness that can be repeated."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import count

import numpy as np

from fedjax_mri.secure import client, crypto, server, wire
from fedjax_mri.secure.crypto import Entropy, KeyPair
from fedjax_mri.secure.wire import Session

NAME = bytes(range(16))


def entropy(seed: str) -> Entropy:
    """Bytes that depend on the seed and on how many were drawn before."""
    numbers: Iterator[int] = count()
    return lambda size: hashlib.shake_256(f"{seed} {next(numbers)}".encode()).digest(size)


def identities(n: int) -> dict[int, KeyPair]:
    return {3 * k + 1: crypto.signing_pair(entropy(f"identity {k}")) for k in range(n)}


def session_of(pairs: Mapping[int, KeyPair], length: int = 50, round: int = 4, active: bool = True) -> Session:
    return wire.session(NAME, round, {k: pair.public for k, pair in pairs.items()}, length, active)


def vectors(session: Session) -> dict[int, np.ndarray]:
    """Words of whole numbers of both signs."""
    rng = np.random.default_rng(0)
    return {k: rng.integers(-9999, 9999, session.length).astype(np.int32).view(np.uint32) for k in session.identities}


class Round:
    """A round step by step: `states` and `out`, the newest messages, of all clients; `state` of the server."""

    def __init__(self, n: int = 7, **more) -> None:
        self.pairs = identities(n)
        self.session = session_of(self.pairs, **more)
        self.words, self.state = vectors(self.session), server.start(self.session)
        self.draw = {k: entropy(f"client {k}") for k in self.pairs}
        begun = {k: client.start(self.session, k, pair, self.draw[k]) for k, pair in self.pairs.items()}
        self.states = {k: state for k, (state, _) in begun.items()}
        self.out = {k: message for k, (_, message) in begun.items()}
        self.messages: dict[int, bytes] = {}
        self.log = [self.out]

    def deliver(self, without: frozenset | set = frozenset(), order: Callable = sorted) -> None:
        """The server takes up what clients send in this step."""
        for k in order(set(self.out) - set(without)):
            self.state, _ = server.receive(self.state, self.out[k])

    def close(self) -> None:
        self.state, self.messages = server.close(self.state)
        self.log.append(self.messages)

    def reply(self, k: int, data: bytes) -> bytes:
        self.states[k], message = client.answer(self.states[k], data, self.words[k], self.draw[k])
        return message

    def answer(self) -> None:
        self.out = {k: self.reply(k, data) for k, data in self.messages.items()}
        self.log.append(self.out)

    def until(self, step: int) -> "Round":
        """The messages of the server after R`step` are there, and no client has answered."""
        for number in range(step + 1):
            if number:
                self.answer()
            self.deliver()
            self.close()
        return self

    def total(self, clients) -> np.ndarray:
        return sum((self.words[k] for k in clients), np.zeros(self.session.length, np.uint32))


def whole_round(n: int = 7, drops: Mapping[int, set] | None = None, order: Callable = sorted, **more) -> Round:
    """A round to the end; `drops` says whose messages of a step never come."""
    one = Round(n, **more)
    for step in range(5):
        if step:
            one.close()
            one.answer()
        one.deliver((drops or {}).get(step, set()), order)
    return one
