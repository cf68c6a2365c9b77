"""An experiment as a ServerApp and a ClientApp of Flower: requests, broadcasts and updates as its messages.

The ServerApp is started by `flwr run`. The ClientApp is called by `node.py`, or by Flower itself in a new process for
each message. Both are code of this package as it is installed; nothing that came over the network is run.
"""

import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from fedjax_mri.core import failures, fields
from fedjax_mri.core.environment import prepare_jax
from fedjax_mri.core.errors import UserError
from fedjax_mri.deploy import client, federation, server
from fedjax_mri.deploy.client import TrainRequest
from fedjax_mri.deploy.federation import Facts
from fedjax_mri.deploy.site import RandomKey, Refusal, misfits
from fedjax_mri.run import config as configs
from fedjax_mri.run import runfolder

POLL_S = 1.0  # between two looks for messages
PROBE_S = 10.0  # after which a hospital that has not answered is asked whether it still knows the request
LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED)  # of replies that will not come  # fmt: skip
say = partial(print, flush=True)  # what `flwr run --stream` and `flwr log` show
client_app = ClientApp()
server_app = ServerApp()


@dataclass(frozen=True)
class RunConfig:
    """The `run-config` of a run of Flower."""

    folder: str  # that `deploy` wrote for the server
    clients: int  # hospitals without which no run begins
    experiment: str = "all"
    round_seconds: float = 0.0  # after which a round goes on without those that have not answered; 0: it waits
    at_least: int = 1  # hospitals without which it does not go on
    random_key: RandomKey = "secret"  # of noise at the server


class Nodes(NamedTuple):
    """The SuperNodes of a run of Flower, and what they have said of themselves. Its sets and dicts change."""

    digests: Mapping[str, str]  # experiment -> digest of its config
    asked: set[int]  # nodes that have been asked which hospital they are
    queries: dict[str, int]  # message that asks -> its node
    of: dict[int, int]  # client -> its node
    names: dict[int, str]  # client -> its hospital
    facts: dict[int, Mapping[str, Facts]]  # client -> what it tells of its data for each experiment


@client_app.query()
def query(message: Message, context: Context) -> Message:
    """Returns what this hospital tells of its data, or why it does not."""
    return answer(message, lambda: (client.facts(folder_of(context), plain_of(message)), b""))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Returns this hospital's update, or why there is none."""
    request = TrainRequest._make(plain_of(message))
    return answer(message, lambda: (None, client.train(folder_of(context), request, tree_of(message))))


def folder_of(context: Context) -> pathlib.Path:
    """Returns the folder of this hospital. Raises UserError where its SuperNode does not say it."""
    if "folder" not in context.node_config:
        raise UserError('--node-config: give the SuperNode folder="FOLDER", the hospital\'s, as `deploy` wrote it')
    return pathlib.Path(str(context.node_config["folder"]))


def answer(message: Message, work: Callable[[], tuple[Any, bytes]]) -> Message:
    """Returns the reply with the plain data and the tree that `work` gives, or with the line of its Refusal.

    Other errors may name files, and so patients: they are printed here, and the server learns that there was one.
    """
    try:
        prepare_jax(devices=1)
        return Message(content_of(*work()), reply_to=message)
    except Exception as error:
        line = failures.one_line(error, pathlib.Path.cwd())
        print(f"error: {line}", flush=True)
        said = line if isinstance(error, Refusal) else "an error there, of which its own log tells more"
        return Message(content_of(said), reply_to=message)


def content_of(plain: Any, tree: bytes = b"") -> RecordDict:
    """Returns the content of a message: plain data as JSON, and a tree that is packed, as an array of bytes."""
    arrays = ArrayRecord({"tree": Array("uint8", (len(tree),), "packed", tree)})
    return RecordDict({"plain": ConfigRecord({"json": json.dumps(plain)}), "arrays": arrays})


def plain_of(message: Message) -> Any:
    """Returns the plain data of a message."""
    return json.loads(str(message.content["plain"]["json"]))


def tree_of(message: Message) -> bytes:
    """Returns the packed tree of a message."""
    return message.content.array_records["arrays"]["tree"].data


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains the experiments of the server's folder, or the one that the run config names, one after another."""
    prepare_jax(devices=1)
    terms = run_config_of(context.run_config)
    folder = pathlib.Path(terms.folder)
    experiments = federation.experiments(folder)
    if terms.experiment not in ("all", *experiments):
        raise UserError(f"experiment={terms.experiment!r}: give all, or one of {', '.join(experiments)}")
    chosen = experiments if terms.experiment == "all" else [terms.experiment]
    asked = {name: runfolder.read_config(experiments[name]) for name in chosen}
    nodes = Nodes({name: configs.digest(config) for name, config in asked.items()}, set(), {}, {}, {}, {})
    wait_for_all(grid, nodes, terms)
    for name, config in asked.items():
        facts = [of_each[name] for of_each in nodes.facts.values()]
        run, state = server.start(config, name, folder / "runs" / name, terms.random_key, facts, say)
        server.train(run, state, partial(train_round, grid, nodes, terms), say)


def run_config_of(given: Mapping[str, Any]) -> RunConfig:
    """Returns a run config, whose names have hyphens. Raises UserError on values that mean nothing."""
    known = {name.replace("_", "-"): kind for name, kind in fields.kinds(RunConfig).items()}
    if found := misfits(given, known):
        raise UserError(f"run-config: {found[0]}")
    terms = RunConfig(**{name.replace("-", "_"): value for name, value in given.items()})
    if terms.round_seconds < 0 or not 0 <= terms.at_least <= terms.clients:
        raise UserError(f"run-config: round-seconds={terms.round_seconds}, at-least={terms.at_least}: give 0 or more "
                        f"seconds, and 0 to {terms.clients} hospitals")  # fmt: skip
    return terms


def wait_for_all(grid: Grid, nodes: Nodes, terms: RunConfig) -> None:
    """Waits until all hospitals are there and have told of their data."""
    said = -1
    while len(nodes.facts) < terms.clients:
        if said != len(nodes.facts):
            said = len(nodes.facts)
            say(f"{said} of {terms.clients} hospitals are there")
        time.sleep(POLL_S)
        identify(grid, nodes)


def identify(grid: Grid, nodes: Nodes) -> set[int]:
    """Asks SuperNodes that have come which hospital they are; returns the clients of those that have answered now.

    Of two that say the same the newer counts: a SuperNode that was started again. Raises UserError on two hospitals
    that say that they are the same client.
    """
    there = set(grid.get_node_ids())
    nodes.asked.intersection_update(there)  # one that comes again is asked again
    new = sorted(there - nodes.asked)
    nodes.asked.update(new)
    push(grid, nodes.queries, {node: Message(content_of(nodes.digests), node, "query") for node in new})
    answered = set()
    for node, reply in pull(grid, nodes.queries):
        if is_lost(reply, f"SuperNode {node}"):
            nodes.asked.discard(node)
            continue
        facts = plain_of(reply)
        first = next(iter(facts.values()))
        one, name = first["client"], first["name"]
        if (other := nodes.names.setdefault(one, name)) != name:
            raise UserError(f"client {one}: {other} and {name} both say that they are; correct their hospital.toml")
        nodes.of[one], nodes.facts[one] = node, facts
        answered.add(one)
    return answered


def train_round(
    grid: Grid, nodes: Nodes, terms: RunConfig, requests: Mapping[int, TrainRequest], broadcast: bytes
) -> dict[int, bytes]:
    """Returns the updates that arrived in a round, by client.

    A hospital that dies and comes back within the round is asked again. To be asked twice does no harm: it trains from
    the same state with the same random numbers. Raises UserError with the line of a hospital that refuses.
    """
    began = probed = time.monotonic()
    ttl, waiting, updates = terms.round_seconds or None, dict[str, int](), dict[int, bytes]()
    while True:
        updates |= {one: tree_of(reply) for one, reply in pull(grid, waiting) if not is_lost(reply, nodes.names[one])}
        now = time.monotonic()
        over = terms.round_seconds and now - began > terms.round_seconds
        if len(updates) == len(requests) or (over and len(updates) >= terms.at_least):
            return updates
        answered = identify(grid, nodes)  # they read their messages: where no update has come, the request was lost
        waiting = {message: one for message, one in waiting.items() if one not in answered}
        if now - probed > PROBE_S:
            probed = now
            nodes.asked.difference_update({nodes.of[one] for one in waiting.values()} - set(nodes.queries.values()))
        new = requests.keys() & nodes.of.keys() - updates.keys() - set(waiting.values())
        content = {one: content_of(requests[one], broadcast) for one in sorted(new)}
        push(grid, waiting, {one: Message(content[one], nodes.of[one], "train", ttl=ttl) for one in content})
        time.sleep(POLL_S)


def push(grid: Grid, waiting: dict[str, int], messages: Mapping[int, Message]) -> None:
    """Sends messages, and adds the ids of those that were taken to those `waiting` for a reply, with their keys."""
    ids = list(grid.push_messages(list(messages.values()))) if messages else []
    waiting.update({message: key for message, key in zip(ids, messages) if message})


def pull(grid: Grid, waiting: dict[str, int]) -> Iterator[tuple[int, Message]]:
    """Yields the replies that have come, each with the key of its message, which is taken off those `waiting`."""
    for reply in grid.pull_messages(list(waiting)) if waiting else []:
        yield waiting.pop(reply.metadata.reply_to_message_id), reply


def is_lost(reply: Message, sender: str) -> bool:
    """Returns whether a reply stands for a message that was lost. Raises UserError where the sender has failed."""
    if reply.has_error() and reply.error.code not in LOST:
        raise UserError(f"{sender}: {reply.error.reason}")
    if not reply.has_error() and isinstance(line := plain_of(reply), str):
        raise UserError(f"{sender}: {line}")
    return reply.has_error()
