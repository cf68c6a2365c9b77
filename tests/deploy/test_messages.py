"""Whom the server asks: hospitals that die, come back, refuse, or say that they are another one."""

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedjax_mri.core.errors import UserError
from fedjax_mri.deploy import flower
from fedjax_mri.deploy.client import TrainRequest
from fedjax_mri.deploy.flower import Nodes, RunConfig

TREE = b"a packed tree"
REQUESTS = {client: TrainRequest("x", "d", "t", 0, 0, 1.0, "[]") for client in (0, 1)}


class Grid:
    """A SuperLink with hospitals that answer as functions of (message type, times asked) say."""

    def __init__(self, hospitals) -> None:
        self.hospitals, self.inbox, self.asked, self.looks = hospitals, [], [], 0

    def get_node_ids(self):
        self.looks += 1
        return [node for node, (_, there) in self.hospitals.items() if there(self.looks)]

    def push_messages(self, messages):
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"{len(self.asked)}-{number}"
            node, kind = message.metadata.dst_node_id, message.metadata.message_type
            self.asked.append((node, kind))
            reply = self.hospitals[node][0](kind, self.asked.count((node, kind)), message)
            self.inbox += [reply] if reply else []
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, ids):
        found = [reply for reply in self.inbox if reply.metadata.reply_to_message_id in ids]
        self.inbox = [reply for reply in self.inbox if reply not in found]
        return found


def hospital(client, name, train=lambda times: {}, there=lambda looks: True):
    def reply(kind, times, message):
        said = {"x": {"client": client, "name": name}} if kind == "query" else train(times)
        if isinstance(said, int):
            return Message(Error(said, "why"), reply_to=message)
        return None if said is None else Message(flower.content_of(said, TREE), reply_to=message)

    return reply, there


def train_round(hospitals, **terms):
    grid, nodes = Grid(hospitals), Nodes({"x": "d"}, set(), {}, {}, {}, {})
    return flower.train_round(grid, nodes, RunConfig("folder", 2, **terms), REQUESTS, TREE), grid


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(flower, "POLL_S", 0.01)


def test_a_round_goes_on_without_a_hospital_that_does_not_answer_in_time() -> None:
    updates, grid = train_round(
        {7: hospital(0, "lyon"), 8: hospital(1, "basel", lambda times: None)}, round_seconds=0.3
    )
    assert updates.keys() == {0} and updates[0] == TREE
    assert grid.asked.count((8, "train")) == 1


def test_a_round_waits_for_as_many_as_it_needs() -> None:
    late = hospital(1, "basel", there=lambda looks: looks > 60)
    updates, grid = train_round({7: hospital(0, "lyon"), 8: late}, round_seconds=0.1, at_least=2)
    assert updates.keys() == {0, 1} and grid.looks > 60


def test_a_hospital_whose_answer_was_lost_is_asked_again() -> None:
    lost = hospital(1, "basel", lambda times: ErrorCode.CLIENT_APP_CRASHED if times < 3 else {})
    updates, grid = train_round({7: hospital(0, "lyon"), 8: lost})
    assert updates.keys() == {0, 1} and grid.asked.count((8, "train")) == 3 and grid.asked.count((7, "train")) == 1


def test_a_hospital_that_comes_back_as_another_node_is_asked_again() -> None:
    died = hospital(1, "basel", lambda times: None, lambda looks: looks < 9)
    updates, grid = train_round(
        {7: hospital(0, "lyon"), 8: died, 9: hospital(1, "basel", there=lambda looks: looks > 5)}
    )
    assert updates.keys() == {0, 1} and grid.asked.count((9, "train")) == 1


def test_a_hospital_that_comes_back_as_the_same_node_is_asked_again(monkeypatch) -> None:
    monkeypatch.setattr(flower, "PROBE_S", 0.1)
    restarted = hospital(1, "basel", lambda times: {} if times > 1 else None)
    updates, grid = train_round({7: hospital(0, "lyon"), 8: restarted})
    assert updates.keys() == {0, 1} and grid.asked.count((8, "query")) == 2


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (hospital(1, "basel", lambda times: "round 3: no"), "basel: round 3: no"),
        (hospital(1, "basel", lambda times: ErrorCode.CLIENT_APP_RAISED_EXCEPTION), "basel: why"),
        (hospital(0, "basel"), "client 0: lyon and basel both say that they are"),
    ],
)
def test_what_a_person_must_correct_ends_the_run(second, words) -> None:
    with pytest.raises(UserError, match=words):
        train_round({7: hospital(0, "lyon"), 8: second})


def test_what_goes_wrong_in_a_hospital_is_told_the_server_without_names_of_files(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)

    def fail():
        raise UserError("/data/mr-smith/1.png: cannot be read")

    reply = flower.answer(Message(flower.content_of({}), 7, "query"), fail)
    said = flower.plain_of(reply)
    assert "smith" not in said and "its own log" in said and "smith" in capsys.readouterr().out


@pytest.mark.parametrize("given", [{"random-key": "mine"}, {"round-seconds": -1.0}, {"at-least": 3}, {"at-lest": 3}])
def test_terms_that_mean_nothing_are_refused(given) -> None:
    with pytest.raises(UserError, match=next(iter(given))):
        flower.run_config_of({"folder": "x", "clients": 2, **given})
