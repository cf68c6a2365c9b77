"""Rounds between processes on loopback: drop-outs, clients that misbehave, and a server that does."""

import multiprocessing
import os
from multiprocessing.connection import Client, Listener

import numpy as np
import pytest
from parties import entropy, identities, session_of, vectors

from fedjax_mri.secure import client, network, server, wire
from fedjax_mri.secure.faults import Refused
from fedjax_mri.secure.wire import SERVER

KEY, PAIRS = b"of the port", identities(5)
SESSION = session_of(PAIRS)  # threshold 4 of the clients 1, 4, 7, 10, 13
WORDS, FRESH = vectors(SESSION), multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["parties", "fedjax_mri.secure.network"])


def honest(address, number, vanish: int, said, begun) -> None:
    """A client's process; it ends without a word before its message of step `vanish`, if that is one."""

    def before(state: client.State, message: bytes) -> None:
        names = ("Advertised", "Shared", "Sent", "Confirmed", "Done")
        if names.index(type(state).__name__) == vanish:
            os._exit(0)

    begun.wait(60)
    try:
        network.take_part(address, KEY, SESSION, number, PAIRS[number], WORDS[number], entropy(str(number)), before)
        said.put((number, "ended"))
    except Refused as error:
        said.put((number, error.fault.name))


def hostile(address, number, vanish: int, said, begun) -> None:
    """A client that repeats, reorders and forges messages beside those it owes, and sends others' after its own."""
    begun.wait(60)
    draw = entropy(str(number))
    state, first = client.start(SESSION, number, PAIRS[number], draw)
    forged = wire.encode(SESSION, 4, wire.Masked(WORDS[4]), PAIRS[number].secret)
    early = wire.encode(SESSION, number, wire.Agreement((1,), ()), PAIRS[number].secret)
    with Client(address, authkey=KEY) as connection:
        for data in (b"GET / HTTP/1.1", early, first, first, forged):
            connection.send_bytes(data)
        while data := connection.recv_bytes():
            state, message = client.answer(state, data, WORDS[number], draw)
            for copy in (message, message, first):
                connection.send_bytes(copy)
    said.put((number, "ended"))


def processes(listener: Listener, behave: dict) -> tuple[list, multiprocessing.Queue]:
    said, begun = FRESH.Queue(), FRESH.Barrier(len(PAIRS) + 1)
    started = []
    for number in PAIRS:
        target, vanish = behave.get(number, (honest, -1))
        started.append(FRESH.Process(target=target, args=(listener.address, number, vanish, said, begun), daemon=True))
        started[-1].start()
    begun.wait(60)  # the server's patience is for what they do, not for how long they take to start
    return started, said


def ended(started: list) -> None:
    for process in started:
        process.join(60)
        assert process.exitcode == 0


@pytest.fixture
def listener():
    with Listener(("127.0.0.1", 0), backlog=16, authkey=KEY) as one:
        yield one


def total(numbers) -> np.ndarray:
    return sum((WORDS[k] for k in numbers), np.zeros(SESSION.length, np.uint32))


@pytest.mark.parametrize("step", range(5))
def test_a_process_that_dies_before_a_step_is_left_out_of_the_sum_or_not(step: int, listener) -> None:
    started, said = processes(listener, {7: (honest, step)})
    served = network.serve(listener, SESSION, patience_s=60 if step else 4)
    there = set(PAIRS) - {7} if step < 3 else set(PAIRS)
    assert set(served.sent) == there and not served.refused
    np.testing.assert_array_equal(served.words, total(there))
    assert {said.get(timeout=60) for _ in range(4)} == {(k, "ended") for k in PAIRS if k != 7}
    ended(started)


def test_a_client_that_misbehaves_is_refused_by_name_and_the_sum_is_right(listener) -> None:
    started, _ = processes(listener, {10: (hostile, -1)})
    served = network.serve(listener, SESSION, patience_s=60)
    np.testing.assert_array_equal(served.words, total(PAIRS))
    for faults in (["not a message"], ["early"], ["forged"], ["repeated", "late"]):  # late once the step has ended
        assert any(one.startswith(f"secure: {fault}") for one in served.refused for fault in faults), faults
    ended(started)


def test_too_few_clients_end_the_round(listener) -> None:
    started, _ = processes(listener, {4: (honest, 2), 7: (honest, 2)})
    with pytest.raises(Refused, match="fewer clients than the threshold: 3 of 4 are left after R2"):
        network.serve(listener, SESSION, patience_s=60)
    for process in started:
        process.kill()


def test_clients_leave_a_server_that_wants_both_shares_of_one_of_them(listener, monkeypatch) -> None:
    def lying(state: server.State) -> tuple:
        after, messages = CLOSE(state)
        if state.step == 2:
            both = wire.encode(SESSION, SERVER, wire.Survivors(after.sent, (7,)))
            messages = dict.fromkeys(messages, both)
        return after, messages

    monkeypatch.setattr(server, "close", lying)
    started, said = processes(listener, {})
    with pytest.raises(Refused, match="fewer clients than the threshold: 0 of 4"):
        network.serve(listener, SESSION, patience_s=60)
    assert {said.get(timeout=60) for _ in PAIRS} == {(k, "OVERLAP") for k in PAIRS}
    ended(started)


CLOSE = server.close
