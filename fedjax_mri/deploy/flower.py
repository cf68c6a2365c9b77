"""An experiment as a ServerApp and a ClientApp of Flower: orders and updates as its messages.

The ServerApp is started by `flwr run`. The ClientApp is called by `node.py`, or by Flower itself in a new process for
each message. Both are code of this package as it is installed; nothing that came over the network is run.
"""

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from fedjax_mri.core import failures
from fedjax_mri.core.environment import prepare_jax
from fedjax_mri.core.errors import UserError
from fedjax_mri.deploy import coordinator, hospital, parts
from fedjax_mri.deploy.hospital import TrainRequest
from fedjax_mri.deploy.parts import Roster
from fedjax_mri.deploy.site import Refusal
from fedjax_mri.deploy.wire import Leaf
from fedjax_mri.run import config as configs

POLL_S = 0.5  # between two looks for messages
PROBE_S = 60.0  # after which a hospital that has not answered is asked whether it still knows the order
LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED)  # of replies that will not come  # fmt: skip
client_app = ClientApp()
server_app = ServerApp()


class RunConfig(NamedTuple):
    """The `run-config` of a run of Flower."""

    folder: str  # that `deploy` wrote for the server
    clients: int  # hospitals without which no run begins
    experiment: str = "all"
    round_seconds: float = 0.0  # after which a round goes on without those that have not answered; 0: it waits
    at_least: int = 1  # hospitals without which it does not go on
    seed: str = "secret"  # of noise at the server: "secret", or "config" as in a simulation


class Nodes(NamedTuple):
    """The SuperNodes that have said which hospital they are."""

    experiment: str
    digest: str
    asked: set[int]
    waiting: dict[str, int]  # message that asks -> node
    of: dict[int, int]  # client -> its node
    facts: dict[int, dict[str, Any]]  # client -> what it tells of its data


@client_app.query()
def query(message: Message, context: Context) -> Message:
    """Returns what this hospital tells of its data, or why it does not."""
    plain = json.loads(str(message.content["order"]["json"]))
    return answer(message, lambda: (hospital.facts(folder_of(context), *plain), {}))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Returns this hospital's update, or why there is none."""
    *plain, roster = json.loads(str(message.content["order"]["json"]))
    order, leaves = TrainRequest._make([*plain, Roster._make(roster)]), dict(message.content["leaves"])
    return answer(message, lambda: ({}, hospital.train(folder_of(context), order, leaves)))


def folder_of(context: Context) -> pathlib.Path:
    """Returns the folder of this hospital. Raises UserError where its SuperNode does not say it."""
    if "folder" not in context.node_config:
        raise UserError('--node-config: give the SuperNode folder="FOLDER", the hospital\'s, as `deploy` wrote it')
    return pathlib.Path(str(context.node_config["folder"]))


def answer(message: Message, work: Callable[[], tuple[Any, Mapping[str, Leaf]]]) -> Message:
    """Returns the reply with the plain data and the leaves that `work` gives, or with the line of its Refusal.

    Other errors may name files, and so patients: they are printed here, and the server learns that there was one.
    """
    try:
        prepare_jax(devices=1)
        plain, leaves = work()
        return Message(content_of(plain, leaves), reply_to=message)
    except Exception as error:
        line = failures.one_line(error, pathlib.Path.cwd())
        print(f"error: {line}", flush=True)
        said = line if isinstance(error, Refusal) else "an error there, of which its own log tells more"
        return Message(content_of({"refused": said}, {}), reply_to=message)


def content_of(plain: Any, leaves: Mapping[str, Leaf]) -> RecordDict:
    """Returns the content of a message: plain data as JSON, and leaves as arrays."""
    arrays = ArrayRecord({name: Array(*leaf) for name, leaf in leaves.items()})
    return RecordDict({"order": ConfigRecord({"json": json.dumps(plain)}), "leaves": arrays})


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains the experiments of the server's folder, or the one that the terms name, one after another."""
    prepare_jax(devices=1)
    terms = run_config_of(context.run_config)
    folder = pathlib.Path(terms.folder)
    there = parts.experiments(folder)
    if terms.experiment not in ("all", *there):
        raise UserError(f"experiment={terms.experiment!r}: give all, or one of {', '.join(there)}")
    for name, config in there.items():
        if terms.experiment in ("all", name):
            nodes = Nodes(name, configs.digest(config), set(), {}, {}, {})
            gather = partial(wait_for_all, grid, nodes, terms)
            run, state = coordinator.start(config, name, folder / "runs" / name, terms.seed, gather, say)
            coordinator.train(run, state, partial(ask, grid, nodes, terms), say)


def say(line: str) -> None:
    """Prints a line, which `flwr run --stream` and `flwr log` show."""
    print(line, flush=True)


def run_config_of(given: Mapping[str, Any]) -> RunConfig:
    """Returns the terms of a run config. Raises UserError on values that mean nothing."""
    values = {name.replace("-", "_"): value for name, value in given.items()}
    if strange := values.keys() - set(RunConfig._fields):
        there = ", ".join(RunConfig._fields).replace("_", "-")
        raise UserError(f"{min(strange).replace('_', '-')}: no such setting; there are {there}")
    terms = RunConfig(**values)
    if not isinstance(terms.round_seconds, float | int) or not isinstance(terms.at_least, int):
        raise UserError(f"round-seconds={terms.round_seconds!r}, at-least={terms.at_least!r}: give numbers, unquoted")
    if terms.seed not in ("secret", "config"):
        raise UserError(f"seed={terms.seed!r}: must be secret or config")
    if terms.round_seconds < 0 or not 0 <= terms.at_least <= terms.clients:
        said = f"round-seconds={terms.round_seconds}, at-least={terms.at_least}"
        raise UserError(f"{said}: give 0 or more seconds, and 0 to {terms.clients} hospitals")
    return terms


def wait_for_all(grid: Grid, nodes: Nodes, terms: RunConfig) -> list[dict[str, Any]]:
    """Returns what all hospitals tell of their data, when all are there."""
    said = -1
    while len(nodes.facts) < terms.clients:
        if said != len(nodes.facts):
            said = len(nodes.facts)
            say(f"{nodes.experiment}: {said} of {terms.clients} hospitals are there")
        time.sleep(POLL_S)
        look(grid, nodes)
    return list(nodes.facts.values())


def look(grid: Grid, nodes: Nodes) -> set[int]:
    """Asks SuperNodes that have come which hospital they are; returns the clients of those that have answered now.

    Of two that say the same the newer counts: a SuperNode that was started again. Raises UserError on two hospitals
    that say that they are the same client.
    """
    there = set(grid.get_node_ids())
    nodes.asked.intersection_update(there)  # one that comes again is asked again
    new = sorted(there - nodes.asked)
    nodes.asked.update(new)
    content = content_of((nodes.experiment, nodes.digest), {})
    nodes.waiting.update(push(grid, [Message(content, node, "query") for node in new], new))
    came = set()
    for node, reply in pull(grid, nodes.waiting):
        found = read(reply, f"SuperNode {node}")
        if found is None:
            nodes.asked.discard(node)
            continue
        client, name = found[0]["client"], found[0]["name"]
        if (other := nodes.facts.get(client, found[0])["name"]) != name:
            raise UserError(f"client {client}: {other} and {name} both say that they are; correct their hospital.toml")
        nodes.of[client], nodes.facts[client] = node, found[0]
        came.add(client)
    return came


def ask(
    grid: Grid, nodes: Nodes, terms: RunConfig, orders: Mapping[int, TrainRequest], leaves: Mapping[str, Leaf]
) -> dict[int, Mapping[str, Any]]:
    """Returns the leaves of the updates that came in a round, by client.

    A hospital that dies and comes back within the round is asked again. To be asked twice does no harm: it trains from
    the same state with the same random numbers. Raises UserError with the line of a hospital that refuses.
    """
    began, ttl = time.monotonic(), terms.round_seconds or None
    sent, asked, came = dict[str, int](), dict[int, float](), dict[int, Mapping[str, Any]]()
    while len(came) < len(orders):
        now = time.monotonic()
        if terms.round_seconds and now - began > terms.round_seconds and len(came) >= terms.at_least:
            break
        for client in look(grid, nodes):  # it reads its messages, so one before was lost, if it has answered none
            asked.pop(client, None)
        late = {nodes.of[client] for client, at in asked.items() if client not in came and now - at > PROBE_S}
        nodes.asked.difference_update(late - set(nodes.waiting.values()))
        new = [client for client in orders if client in nodes.of and client not in asked and client not in came]
        asked.update(dict.fromkeys(new, now))
        messages = [Message(content_of(orders[one], leaves), nodes.of[one], "train", ttl=ttl) for one in new]
        sent.update(push(grid, messages, new))
        for client, reply in pull(grid, sent):
            found = read(reply, nodes.facts[client]["name"])
            if found is None:
                asked.pop(client, None)
            else:
                came[client] = found[1]
        time.sleep(POLL_S)
    return came


def push(grid: Grid, messages: list[Message], keys: list[int]) -> dict[str, int]:
    """Sends messages, and returns their keys by the ids of those that were taken."""
    ids = list(grid.push_messages(messages)) if messages else []
    return {message: key for message, key in zip(ids, keys) if message}


def pull(grid: Grid, waiting: dict[str, int]) -> list[tuple[int, Message]]:
    """Returns the replies that have come, each with the key of its message, which is taken off those `waiting`."""
    replies = list(grid.pull_messages(list(waiting))) if waiting else []
    return [(waiting.pop(reply.metadata.reply_to_message_id), reply) for reply in replies]


def read(reply: Message, sender: str) -> tuple[Any, Mapping[str, Any]] | None:
    """Returns the plain data and the leaves of a reply; None where the message was lost. Raises UserError on others."""
    if reply.has_error():
        if reply.error.code in LOST:
            return None
        raise UserError(f"{sender}: {reply.error.reason}")
    plain = json.loads(str(reply.content["order"]["json"]))
    if "refused" in plain:
        raise UserError(f"{sender}: {plain['refused']}")
    return plain, dict(reply.content["leaves"])
