"""The protocol between machines: sums with drop-outs, and each message that is not as it must be, refused by name."""

import itertools
import json
import pathlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import NAME, Round, entropy, identities, session_of, whole_round

from fedjax_mri.secure import client, crypto, server, shamir, wire
from fedjax_mri.secure.faults import Fault, Refused
from fedjax_mri.secure.wire import SERVER, Advertise, Agreements, Inbox, Masked, Roster, Survivors, Unmask, decode

ANSWERS = pathlib.Path(__file__).parent / "known_answers.json"


def refuses(fault: Fault):
    return pytest.raises(Refused, check=lambda error: error.fault is fault)


# ---- sums


def test_the_sum_is_that_of_all_and_no_message_shows_a_vector() -> None:
    one = whole_round()
    np.testing.assert_array_equal(server.finish(one.state), one.total(one.session.identities))
    masked = {k: decode(one.session, data)[1] for k, data in one.log[4].items()}
    for k, message in masked.items():
        assert isinstance(message, Masked) and np.sum(message.words == one.words[k]) < 2
    assert np.sum(one.state.total == server.finish(one.state)) < 2


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("step", range(5))
def test_clients_may_drop_out_at_any_step_down_to_the_threshold(step: int, active: bool) -> None:
    all_clients = set(identities(7))
    spare = 7 - session_of(identities(7), active=active).threshold
    lost = set(sorted(all_clients)[1 : 1 + spare])
    one = whole_round(drops={step: lost}, active=active)
    there = all_clients - lost if step < 3 else all_clients
    assert set(one.state.sent) == there
    np.testing.assert_array_equal(server.finish(one.state), one.total(there))
    with refuses(Fault.THRESHOLD):
        server.finish(whole_round(drops={step: lost | {max(all_clients)}}, active=active).state)


def test_drop_outs_at_several_steps() -> None:
    first, *_, before, last = sorted(identities(10))
    one = whole_round(10, {1: {first}, 2: {before}, 4: {last}})
    np.testing.assert_array_equal(server.finish(one.state), one.total(set(identities(10)) - {first, before}))


def test_the_order_of_messages_within_a_step_does_not_matter() -> None:
    shuffled = lambda clients: random.Random(3).sample(sorted(clients), len(clients))  # noqa: E731
    one, other = whole_round(), whole_round(order=shuffled)
    np.testing.assert_array_equal(server.finish(one.state), server.finish(other.state))


@pytest.mark.parametrize(("n", "active", "curious"), [(2, 2, 2), (3, 3, 2), (7, 5, 4), (10, 7, 6), (100, 67, 51)])
def test_thresholds(n: int, active: int, curious: int) -> None:
    keys = dict.fromkeys(range(n), bytes(32))
    assert [wire.session(NAME, 0, keys, 5, kind).threshold for kind in (True, False)] == [active, curious]
    for threshold in (n // 2, n + 1):
        with refuses(Fault.THRESHOLD):
            wire.checked(wire.Session(NAME, 0, keys, threshold, 5))


def test_secrets_are_restored_by_any_threshold_of_shares_and_no_fewer() -> None:
    secret, points = int.from_bytes(entropy("secret")(32), "big"), (1, 4, 7, 11, 2**32)
    shares = dict(zip(points, shamir.divide(secret, 3, points, entropy("shares"))))
    for some in itertools.chain(itertools.combinations(points, 3), itertools.combinations(points, 5)):
        assert shamir.restore({p: shares[p] for p in some}, 3) == secret
    line = shamir.restore({p: shares[p] for p in points[:2]}, 2)  # as if the polynomial were a line
    assert line is not None and line != secret
    assert shamir.restore({**shares, 4: shares[4] + 1}, 3) is None
    three = [shares[p] for p in points[:3]]  # Lagrange at 0 by hand, for the points 1, 4, 7
    by_hand = (three[0] * 14 - three[1] * 7 + three[2] * 2) * pow(9, -1, shamir.PRIME) % shamir.PRIME
    assert by_hand == secret


# ---- messages that the server refuses


def received(one: Round) -> server.State:
    """The server's state with all messages of the step."""
    state = one.state
    for data in one.out.values():
        state, _ = server.receive(state, data)
    return state


def test_messages_of_another_step_and_repeated_ones() -> None:
    one = Round()
    k = min(one.pairs)
    advert = one.out[k]
    one.until(0)
    with refuses(Fault.LATE):
        server.receive(one.state, advert)
    one.answer()
    shares = dict(one.out)
    ahead, _ = server.close(received(one))
    with refuses(Fault.REPEATED):
        server.receive(received(one), shares[k])
    with refuses(Fault.LATE):
        server.receive(ahead, shares[k])
    with refuses(Fault.EARLY):
        server.receive(Round().state, shares[k])


def test_a_vector_that_comes_late_is_not_in_the_sum_and_its_client_counts_as_dropped_out() -> None:
    one = Round().until(1)
    one.answer()
    late = max(one.pairs)
    one.deliver({late})
    one.close()
    with refuses(Fault.LATE):
        server.receive(one.state, one.out[late])
    one.answer()
    one.deliver()
    one.close()
    one.answer()
    one.deliver()
    np.testing.assert_array_equal(server.finish(one.state), one.total(set(one.pairs) - {late}))


def test_forged_messages() -> None:
    one = Round()
    a, b, *_ = one.out
    keys = Advertise(bytes(32), bytes(32), bytes(32))
    for forged in (
        wire.encode(one.session, a, keys, one.pairs[b].secret),
        one.out[a][:40] + bytes([one.out[a][40] ^ 1]) + one.out[a][41:],
        one.out[a][:-1],
        wire.encode(one.session, a, keys),
    ):
        with refuses(Fault.SIGNATURE):
            server.receive(one.state, forged)
    with refuses(Fault.SENDER):
        server.receive(one.state, wire.encode(one.session, 999, keys, one.pairs[a].secret))
    with refuses(Fault.SENDER):
        server.receive(one.state, wire.encode(one.session, a, Survivors((a,), ()), one.pairs[a].secret))
    with refuses(Fault.SENDER):
        server.receive(one.state, wire.encode(one.session, SERVER, keys))
    with refuses(Fault.SENDER):
        client.start(one.session, a, one.pairs[b], entropy("x"))


def test_messages_of_another_version_type_session_or_round() -> None:
    one = Round()
    k, pair = next(iter(one.pairs.items()))
    good = one.out[k]

    def signed(data: bytes) -> bytes:
        return data + crypto.signature(pair.secret, data)

    body = good[:-64]
    for fault, bad in {
        Fault.FORMAT: b"HTTP" + good[4:],
        Fault.VERSION: signed(body[:4] + b"\2" + body[5:]),
        Fault.TYPE: signed(body[:5] + b"\x63" + body[6:]),
        Fault.LENGTH: signed(body + b"\0"),
        Fault.SESSION: whole_round(2, round=5).log[0][k],
    }.items():
        with refuses(fault):
            server.receive(one.state, bad)
    with refuses(Fault.LENGTH):
        server.receive(one.state, signed(body[:-1]))
    with refuses(Fault.FORMAT):
        server.receive(one.state, b"")
    long = wire.encode(one.session, k, Masked(np.zeros(51, np.uint32)), pair.secret)
    after = Round().until(1)
    with refuses(Fault.LENGTH):
        server.receive(after.state, long)


@given(st.data())
def test_whatever_bytes_come_they_are_read_or_refused(data) -> None:
    session = SMALL.session
    some = data.draw(st.sampled_from([m for step in SMALL.log for m in step.values()]))
    place, change = data.draw(st.integers(0, len(some))), data.draw(st.binary(max_size=8))
    try:
        sender, message = decode(session, some[:place] + change + some[place + data.draw(st.integers(0, 8)) :])
    except Refused:
        return
    assert wire.encode(session, sender, message) == wire.encode(session, *decode(session, some)) or sender == SERVER


def test_all_messages_are_written_as_they_are_read() -> None:
    for step in SMALL.log:
        for data in step.values():
            sender, message = decode(SMALL.session, data)
            secret = None if sender == SERVER else SMALL.pairs[sender].secret
            assert wire.encode(SMALL.session, sender, message, secret) == data


def test_the_sizes_of_messages_are_those_of_the_page() -> None:
    n, d = 9, 500
    one = whole_round(n, length=d)
    bodies = [96, 4 + 168 * (n - 1), 4 + 4 * d, 8 + 4 * n, 8 + 74 * n]
    assert [{len(message) for message in step.values()} for step in one.log[::2]] == [{94 + size} for size in bodies]
    page = (pathlib.Path(__file__).parents[2] / "docs" / "secure.md").read_text()
    assert all(f"| {text} |" in page for text in ("96", "4 + 168 (n - 1)", "4 + 4 d", "8 + 4 n", "8 + 74 n"))


def test_wrong_shares_of_a_client_are_noticed_and_whose_secret_they_were_said_to_be_of() -> None:
    """With exactly as many shares as are needed the commitment tells, and with more the polynomial does."""
    for lost in (2, 0):
        one = whole_round(drops={4: set(sorted(identities(7))[:lost])})
        k, message = next(iter(one.state.received.items()))
        owner = message.seeds[0][0]
        wrong = Unmask(((owner, bytes(66)), *message.seeds[1:]), message.keys)
        with pytest.raises(Refused, match=f"of the seed of client {owner}"):
            server.finish(one.state._replace(received={**one.state.received, k: wrong}))
    one = whole_round(drops={4: set(sorted(identities(7))[:2])})
    k, message = next(iter(one.state.received.items()))
    owner, share = message.seeds[0]
    points = tuple(sorted(client + 1 for client in one.state.received))
    weight = shamir._coefficients(points, 0)[points.index(k + 1)]
    moved = (int.from_bytes(share, "big") + pow(weight, -1, shamir.PRIME)) % shamir.PRIME  # the seed plus 1 comes out
    wrong = Unmask(((owner, moved.to_bytes(66, "big")), *message.seeds[1:]), message.keys)
    with refuses(Fault.SHARES):
        server.finish(one.state._replace(received={**one.state.received, k: wrong}))
    one = whole_round(drops={2: {1}})
    k, message = next(iter(one.state.received.items()))
    wrong = Unmask(message.seeds, ((1, bytes(66)),))
    with pytest.raises(Refused, match="of the secret key of client 1"):
        server.finish(one.state._replace(received={**one.state.received, k: wrong}))


# ---- a hostile server


def told(one: Round, k: int, message: object) -> bytes:
    return one.reply(k, wire.encode(one.session, SERVER, message))  # type: ignore[arg-type]


def roster(change):
    """A roster that the server has changed, to client 1; `change` is given the signed messages by client."""

    def tell() -> None:
        one = Round()
        told(one, 1, Roster(tuple(change(one, dict(one.out)))))

    return tell


def inbox(change):
    def tell() -> None:
        one = Round().until(1)
        box = dict(decode(one.session, one.messages[1])[1].sealed)
        told(one, 1, Inbox(tuple(change(box))))

    return tell


def survivors(sent, dropped):
    return lambda: told(Round().until(2), 1, Survivors(tuple(sent), tuple(dropped)))


def agreements(change):
    def tell() -> None:
        one = Round().until(2)
        one.answer()
        told(one, 1, Agreements(tuple(change(one, dict(one.out)))))

    return tell


def other_survivors(one: Round, out: dict) -> list[bytes]:
    """The server has told client 4 that client 7 dropped out, and wants both kinds of its shares."""
    agreement = wire.Agreement((1, 4, 10, 13, 16, 19), (7,))
    return [*list(out.values())[2:], out[1], wire.encode(one.session, 4, agreement, one.pairs[4].secret)]


def own_keys(one: Round, out: dict) -> list[bytes]:
    """Keys of the server's own in the name of client 4."""
    pair = crypto.agreement_pair(entropy("hostile"))
    out[4] = wire.encode(one.session, 4, Advertise(pair.public, pair.public, bytes(32)), one.pairs[1].secret)
    return list(out.values())


def twins(one: Round, out: dict) -> list[bytes]:
    """Client 4 takes client 7's keys."""
    theirs = decode(one.session, out[7])[1]
    return list({**out, 4: wire.encode(one.session, 4, theirs, one.pairs[4].secret)}.values())


def weak(one: Round, out: dict) -> list[bytes]:
    """Client 4 gives a key of small order, with which all agree on zeros."""
    keys = Advertise(bytes(31) + b"\1", bytes(32), bytes(32))
    return list({**out, 4: wire.encode(one.session, 4, keys, one.pairs[4].secret)}.values())


ALL = (1, 4, 7, 10, 13, 16, 19)
HOSTILE = {
    "keys that the server has made": (roster(own_keys), Fault.SIGNATURE),
    "keys of another round": (roster(lambda one, out: Round(round=3).out.values()), Fault.SESSION),
    "a client twice": (roster(lambda one, out: [*out.values(), out[4]]), Fault.REPEATED),
    "the same keys of two clients": (roster(twins), Fault.KEYS),
    "a weak key": (roster(weak), Fault.KEYS),
    "a roster without the client": (roster(lambda one, out: list(out.values())[1:]), Fault.KEYS),
    "too few keys": (roster(lambda one, out: list(out.values())[:4]), Fault.THRESHOLD),
    "unsigned keys": (
        roster(lambda one, out: [wire.encode(one.session, SERVER, decode(one.session, out[1])[1])]),
        Fault.KEYS,
    ),
    "shares of another client": (inbox(lambda box: {**box, 4: box[7], 7: box[4]}.items()), Fault.SHARES),
    "shares that were changed": (
        inbox(lambda box: {**box, 4: box[4][:20] + bytes([box[4][20] ^ 1]) + box[4][21:]}.items()),
        Fault.SHARES,
    ),
    "shares cut short": (inbox(lambda box: {**box, 4: b""}.items()), Fault.SHARES),
    "shares of a stranger": (inbox(lambda box: {**box, 99: box[4]}.items()), Fault.MEMBERS),
    "shares of its own": (inbox(lambda box: {**box, 1: box[4]}.items()), Fault.MEMBERS),
    "too few shares": (inbox(lambda box: list(box.items())[:2]), Fault.THRESHOLD),
    "survivors that dropped out": (survivors(ALL, (7,)), Fault.OVERLAP),
    "too few survivors": (survivors(ALL[:4], ALL[4:]), Fault.THRESHOLD),
    "a survivor less": (survivors(ALL[:6], ()), Fault.MEMBERS),
    "a survivor twice": (survivors((*ALL, 4), ()), Fault.MEMBERS),
    "a survivor from nowhere": (survivors((*ALL, 22), ()), Fault.MEMBERS),
    "survivors without the client": (survivors(ALL[1:], (1,)), Fault.MEMBERS),
    "two groups told of different survivors": (agreements(other_survivors), Fault.DISAGREEMENT),
    "too few agreements": (agreements(lambda one, out: list(out.values())[:4]), Fault.THRESHOLD),
    "one agreement often": (agreements(lambda one, out: [out[1]] * 7), Fault.REPEATED),
    "agreements that are none": (agreements(lambda one, out: one.log[4].values()), Fault.REPEATED),
    "a message in a client's name": (lambda: one_of_a_client(), Fault.SENDER),
    "the next step too early": (lambda: told(Round().until(2), 1, Agreements(())), Fault.EARLY),
    "other survivors, once more": (lambda: told(confirmed(), 1, Survivors(ALL[:6], (19,))), Fault.REPEATED),
    "shares of secrets, once more": (lambda: twice(), Fault.REPEATED),
    "a message for servers": (lambda: told(Round(), 1, Unmask((), ())), Fault.SENDER),
}


def confirmed() -> Round:
    one = Round().until(2)
    one.answer()
    return one


def one_of_a_client() -> None:
    one = Round()
    one.reply(1, wire.encode(one.session, 4, Roster(tuple(one.out.values())), one.pairs[4].secret))


def twice() -> None:
    one = Round().until(3)
    first = one.messages[1]
    one.answer()
    one.reply(1, first)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_client_refuses_a_hostile_server(case: str) -> None:
    tell, fault = HOSTILE[case]
    with refuses(fault):
        tell()


# ---- faults that other implementations have


def test_masks_depend_on_all_256_bits_of_their_key() -> None:
    """Elsewhere the seed is folded to 32 bits by exclusive or, and the first two keys here would have the same mask."""
    masks = []
    for key in (b"\1\2\3\4" * 8, b"\5\6\7\x08" * 8, bytes(31) + b"\1", bytes(32)):
        words = np.zeros(400_000, np.uint32)
        crypto.add_mask(words, key, 1)
        masks.append(words)
    assert all(np.sum(a == b) < 3 for a, b in itertools.combinations(masks, 2))
    assert len(np.unique(masks[0])) > 399_900 and masks[0].max() > 2**32 - 2**17  # of the whole range, without a cycle
    known = "dc95c078a2408989ad48a21492842087"  # AES-256 of zeros under a key of zeros: NIST's AESAVS, appendix
    assert masks[3][:4].astype("<u4").tobytes().hex() == known
    crypto.add_mask(masks[0], b"\1\2\3\4" * 8, -1)
    assert not masks[0].any()


def test_nobody_gives_both_shares_of_a_client() -> None:
    one = whole_round(drops={2: {7}})
    for message in one.state.received.values():
        assert {k for k, _ in message.seeds} == set(ALL) - {7} and [k for k, _ in message.keys] == [7]


def test_keys_are_authenticated() -> None:
    """See "keys that the server has made" above; this is the key's owner, of whom the message would be accepted."""
    one = Round()
    genuine = wire.encode(one.session, 4, decode(one.session, one.out[4])[1], one.pairs[4].secret)
    assert told(one, 1, Roster(tuple({**one.out, 4: genuine}.values())))


@pytest.mark.parametrize("value", [2**31 // 7 + 1, -(2**31 // 7) - 1, -(2**31)])
def test_a_sum_that_could_overflow_is_refused_by_the_client(value: int) -> None:
    one = Round().until(1)
    one.words[1] = np.full(50, value, np.int32).view(np.uint32)
    with refuses(Fault.RANGE):
        one.reply(1, one.messages[1])
    one = Round()
    edge = (2**31 - 1) // 7
    one.words = {k: np.full(50, edge, np.uint32) for k in one.words}
    one.until(3)
    one.answer()
    one.deliver()
    assert np.all(server.finish(one.state) == 7 * edge) and 7 * edge < 2**31


def test_keys_and_masks_are_fresh_in_each_round() -> None:
    one, other = whole_round(4), whole_round(4, round=5)  # even if randomness came again, the round is in each key
    masked = [decode(r.session, r.log[4][1])[1].words for r in (one, other)]
    assert np.sum(masked[0] == masked[1]) < 2


# ---- the known answer


def transcript() -> dict[str, object]:
    """All messages of a round of four clients, of whom client 4 drops out before its vector comes."""
    one = whole_round(4, {2: {4}}, length=6)
    steps = [{str(k): message.hex() for k, message in step.items()} for step in one.log]
    words = {str(k): value.tolist() for k, value in one.words.items()}
    return {"words": words, "messages": steps, "sum": server.finish(one.state).tolist()}


SMALL = whole_round(4, {2: {4}}, length=6)


def test_a_round_with_known_randomness_has_the_known_messages() -> None:
    """`PYTHONPATH=.:tests/secure python tests/secure/test_secure_protocol.py` writes the file, for a new version."""
    assert transcript() == json.loads(ANSWERS.read_text())


if __name__ == "__main__":
    ANSWERS.write_text(json.dumps(transcript(), indent=1) + "\n")
