"""Secure aggregation of many clients in one process: ours, and Flower's SecAgg+ by its own workflow and client's mod.

    PYTHONPATH=. python scripts/peers/secagg/run.py --clients 100 --values 1000000 --lost 5

Vectors are drawn numbers. `--neighbours` are the clients with which one of Flower's shares masks; ours are all.
Flower's messages are handed over as objects, ours are written to bytes, signed and verified.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import numpy as np

from fedjax_mri.secure import client, crypto, server, wire

RANGE = 8.0  # Flower's default clipping range; both send steps of a fraction of it


class Timed(NamedTuple):
    """What a protocol took and came to."""

    name: str
    client_s: float  # seconds of one client, in the mean
    server_s: float
    sent_mb: float  # by a client with its vector, all messages
    error: float  # largest, of the mean of the vectors


class Clocks:
    """Seconds of clients and of the server."""

    def __init__(self) -> None:
        self.client, self.server = 0.0, 0.0

    def measure(self, side: str, work: Callable[..., Any], *given: Any) -> Any:
        start = time.perf_counter()
        result = work(*given)
        setattr(self, side, getattr(self, side) + time.perf_counter() - start)
        return result


def vector(number: int, values: int) -> np.ndarray:
    return np.random.default_rng(number).normal(0, 0.05, values).astype(np.float32)


def true_mean(numbers: list[int], values: int) -> np.ndarray:
    return sum(vector(k, values).astype(np.float64) for k in numbers) / len(numbers)


def ours(clients: int, values: int, lost: int) -> Timed:
    pairs = {k: crypto.signing_pair(os.urandom) for k in range(clients)}
    session = wire.session(os.urandom(16), 0, {k: pair.public for k, pair in pairs.items()}, values)
    bits, clocks, sent = ((2**31 - 1) // clients).bit_length() - 1, Clocks(), 0
    state, states, out = server.start(session), {}, {}
    words = np.zeros(values, np.uint32)
    for k, pair in pairs.items():
        states[k], out[k] = clocks.measure("client", client.start, session, k, pair, os.urandom)
    for step in range(5):
        for k in sorted(out):
            sent += len(out[k]) if k == clients - 1 else 0
            state, _ = clocks.measure("server", server.receive, state, out.pop(k))
        if step == 4:
            break
        state, messages = clocks.measure("server", server.close, state)
        for k, message in messages.items():
            if step == 1:
                if k < lost:
                    continue
                words = clocks.measure("client", in_steps, vector(k, values), bits)
            states[k], out[k] = clocks.measure("client", client.answer, states[k], message, words, os.urandom)
            if step == 1:  # taken up at once, so that not all vectors are held
                state, _ = clocks.measure("server", server.receive, state, out.pop(k))
                sent += 4 * values if k == clients - 1 else 0
    total = clocks.measure("server", server.finish, state).view(np.int32) * (RANGE / 2**bits)
    error = np.abs(total / len(state.sent) - true_mean(list(state.sent), values)).max()
    name = f"fedjax_mri, threshold {session.threshold}, all pairs"
    return Timed(name, clocks.client / clients, clocks.server, sent / 1e6, float(error))


def in_steps(floats: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(np.clip(floats, -RANGE, RANGE) * np.float32(2**bits / RANGE)).astype(np.int32).view(np.uint32)


def flower(clients: int, values: int, lost: int, neighbours: int) -> Timed:
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
    from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
    from flwr.compat.common import recorddict_compat as compat
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
    from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1  # of messages, as its simulation sets them
    threshold = 2 * neighbours // 3 + 1
    workflow = SecAggPlusWorkflow(neighbours if neighbours < clients else 1.0, threshold, max_weight=1.0)
    contexts = {k: Context(0, k, {}, RecordDict(), {}) for k in range(1, clients + 1)}
    drawn: dict[int, np.ndarray] = {}
    clocks, found, sent, in_clients, in_transport = Clocks(), {}, [0], [0.0], [0.0]

    def fit(message: Message, context: Context) -> Message:
        parameters = ndarrays_to_parameters([drawn.pop(context.node_id)])
        return Message(
            compat.fitres_to_recorddict(FitRes(Status(Code.OK, ""), parameters, 1, {}), False), reply_to=message
        )

    def send_and_receive(messages: list[Message], timeout: float | None = None) -> list[Message]:
        replies, begun = [], time.perf_counter()
        messages = [copy.deepcopy(one) for one in messages]  # as if sent: the workflow gives all clients one object
        in_transport[0] += time.perf_counter() - begun
        for message in sorted(messages, key=lambda one: one.metadata.dst_node_id):
            k = message.metadata.dst_node_id
            if message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE] == Stage.COLLECT_MASKED_VECTORS:
                if k <= lost:
                    continue
                begun = time.perf_counter()
                drawn[k] = vector(k, values)
                in_transport[0] += time.perf_counter() - begun
            start = time.perf_counter()
            replies.append(secaggplus_mod(message, contexts[k], fit))
            in_clients[0] += time.perf_counter() - start
            if k == clients:
                record = replies[-1].content.config_records[RECORD_KEY_CONFIGS]
                sent[0] += record.count_bytes()
        return replies

    proxies = [SimpleNamespace(node_id=k) for k in contexts]
    strategy = SimpleNamespace(
        configure_fit=lambda *_: [(proxy, FitIns(ndarrays_to_parameters([]), {})) for proxy in proxies],
        aggregate_fit=lambda number, results, failures: found.update(mean=results[0][1].parameters) or (None, {}),
    )
    record = RecordDict({MAIN_CONFIGS_RECORD: ConfigRecord({"current_round": 1})})
    record.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(ndarrays_to_parameters([]), True)
    context = SimpleNamespace(
        state=record, strategy=strategy, client_manager=SimpleNamespace(num_available=lambda: clients)
    )
    state, grid = WorkflowState(), SimpleNamespace(send_and_receive=send_and_receive)
    for stage in ("setup", "share_keys", "collect_masked_vectors", "unmask"):
        if not clocks.measure("server", getattr(workflow, f"{stage}_stage"), grid, context, state):
            raise SystemExit(f"Flower's {stage} stage has failed")
    there = list(range(lost + 1, clients + 1))
    error = np.abs(parameters_to_ndarrays(found["mean"])[0] - true_mean(there, values)).max()
    name = f"Flower SecAgg+, threshold {threshold}, {neighbours} neighbours"
    return Timed(
        name, in_clients[0] / clients, clocks.server - in_clients[0] - in_transport[0], sent[0] / 1e6, float(error)
    )


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--clients", type=int, default=100)
    words.add_argument("--values", type=int, default=1_000_000)
    words.add_argument("--lost", type=int, default=5, help="clients whose vectors never come")
    words.add_argument("--neighbours", type=int, nargs="*", default=[], help="of Flower; all, and these")
    chosen = words.parse_args()
    size = chosen.clients, chosen.values, chosen.lost
    print("| protocol | a client, s | the server, s | a client sends, MB | largest error of the mean |")
    print("|---|---|---|---|---|")
    first = None
    for work in (ours, *(lambda *size, n=n: flower(*size, n) for n in (chosen.clients, *chosen.neighbours))):
        timed = work(*size)
        first = first or timed
        ratio = "" if timed is first else f" ({timed.client_s / first.client_s:.1f} times)"
        ratios = "" if timed is first else f" ({timed.server_s / first.server_s:.1f} times)"
        print(
            f"| {timed.name} | {timed.client_s:.2f}{ratio} | {timed.server_s:.1f}{ratios} | {timed.sent_mb:.2f} "
            f"| {timed.error:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
