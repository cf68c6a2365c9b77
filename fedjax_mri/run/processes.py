"""Several processes as one program, by `jax.distributed`: joining, agreeing, and leaving when one is gone.

Alone, every function here is the trivial one and costs nothing.
"""

import contextlib
import itertools
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import clusters, distributed  # JAX has no public names for the key-value store and the place

from fedjax_mri.core import failures
from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.run import rendezvous
from fedjax_mri.run.launch import AGAIN, CLUSTER, PLACE

T = TypeVar("T")
DAY = 24 * 3600  # seconds; a process that dies is noticed by the heartbeat, not by these waits
LAST_WORDS = 3  # seconds that a failed process waits for the others to fail as well
LINGER = 1  # seconds that process 0 stays after that: C++ aborts the others while they leave if it goes first
CONTACT = re.compile(r"Gloo|NCCL|[Cc]oordination ?[Ss]ervice|heartbeat|Barrier|Connection (reset|closed)|DEADLINE_EXC")
_calls = itertools.count()


def is_multiprocess() -> bool:
    """Returns whether this process has joined others."""
    return jax.distributed.is_initialized()


def is_main_process() -> bool:
    """Returns whether this is process 0, which alone writes files and words."""
    return distributed.global_state.process_id == 0


@contextlib.contextmanager
def joined(heartbeat: int, join_timeout: int) -> Iterator[None]:
    """Runs the body as one of the processes that `launch` has started, if it has; both arguments are in seconds.

    Raises UserError where an error of the body means that another process is gone.
    """
    if PLACE in os.environ:
        threading.Thread(target=outlive_nobody, daemon=True).start()
        join(os.environ[PLACE], heartbeat, join_timeout)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if gone := lost_process_error(error):
            raise gone from error
        raise


def join(text: str, heartbeat: int, join_timeout: int) -> None:
    """Makes this process one of several, before the first array. `text` is "INDEX/COUNT@HOST:PORT" or CLUSTER.

    Raises UserError when there is no such place or the others are not there in time.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # signals are stopping.py's
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax tells its threads' errors there, stack and all
    place = detected(join_timeout) if text == CLUSTER else placed(text)
    rendezvous.meet(place, join_timeout, lambda line: print(line, flush=True))
    settings: dict[str, Any] = {} if text == CLUSTER else settings_of(place)
    waits = {"heartbeat_timeout_seconds": heartbeat, "shutdown_timeout_seconds": DAY}
    try:
        jax.distributed.initialize(**{**settings, **waits}, initialization_timeout=join_timeout)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{place.flag}: cannot join the others ({short_message(error)})") from error
    if not is_main_process():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (it stays so until the end)


def placed(text: str) -> rendezvous.ProcessPlace:
    """Returns the place that "INDEX/COUNT@HOST:PORT" stands for."""
    found = re.fullmatch(r"(\d+)/(\d+)@(.+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"--distributed {text}: give INDEX/COUNT@HOST:PORT, such as 0/4@node1:1234")
    return rendezvous.ProcessPlace(
        int(found[1]), int(found[2]), found[3].strip("[]"), int(found[4]), f"--distributed {text}"
    )


def detected(seconds: int) -> rendezvous.ProcessPlace:
    """Returns the place that SLURM, Open MPI, a TPU pod, ... give to this process.

    It is found as `jax.distributed.initialize` finds it.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    find = clusters.ClusterEnv.auto_detect_unset_distributed_params
    try:
        address, count, index, _ = find(address, None, None, None, None, seconds)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--distributed: cannot join the others ({short_message(error)})") from error
    if address is None or count is None or index is None:
        raise UserError("--distributed: no cluster found here; give INDEX/COUNT@HOST:PORT")
    host, _, port = address.rpartition(":")
    return rendezvous.ProcessPlace(index, count, host.strip("[]"), int(port), "--distributed")


def settings_of(place: rendezvous.ProcessPlace) -> dict[str, Any]:
    """Returns the settings of JAX for a place."""
    host = f"[{place.host}]" if ":" in place.host else place.host
    address = {"coordinator_address": f"{host}:{place.port}", "cluster_detection_method": "deactivate"}
    return {"process_id": place.number, "num_processes": place.processes, **address}


def outlive_nobody() -> None:
    """Ends this process when its launcher is gone: nobody would hear or stop it."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def all_gather(value: Any) -> list[Any]:
    """Returns `value`, plain data, of each process in turn. All processes must call it."""
    if not is_multiprocess():
        return [value]
    client, name = _client(), f"fedjax_mri/{next(_calls)}"
    client.key_value_set(f"{name}/{distributed.global_state.process_id}", json.dumps(value))
    client.wait_at_barrier(name, DAY * 1000)
    found = {int(key.rpartition("/")[2]): text for key, text in client.key_value_dir_get(f"{name}/")}
    return [json.loads(found[number]) for number in sorted(found)]


def all_max(number: int) -> int:
    """Returns the highest `number` of any process, by one small collective. All processes must call it."""
    if not is_multiprocess():
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.int32(number)).max())


def run_on_all(work: Callable[[], T]) -> T:
    """Returns what `work` gives. Raises UserError in every process when it fails in any."""
    failure = None
    try:
        result = work()
    except Exception as error:
        failure = error
    lines = all_gather(failure and failures.describe(failure))
    if failure:
        raise failure
    for number, line in enumerate(lines):
        if line:
            raise UserError(f"process {number}: {line}")
    return result


def check_all_equal(facts: Mapping[str, Any], remedy: str) -> None:
    """Raises UserError in every process, naming what differs and where, unless all have the same `facts`."""
    first, *others = all_gather({name: str(value) for name, value in facts.items()})
    for number, theirs in enumerate(others, 1):
        names = [name for name in {**first, **theirs} if first.get(name) != theirs.get(name)]
        differing = (f"{name} is {theirs.get(name)}, in process 0 {first.get(name)}" for name in names[:5])
        if names:
            raise UserError(f"process {number} differs: {'; '.join(differing)}; {remedy}")


def lost_process_error(error: BaseException | None) -> UserError | None:
    """Returns the line for an error that means, itself or by what it came from, that another process is gone."""
    if error is None or not is_multiprocess():
        return None
    if CONTACT.search(str(error)):
        return UserError(f"lost contact with another process; {AGAIN}")
    return lost_process_error(error.__cause__ or error.__context__)


def give_up(code: int) -> int:
    """Returns `code` where this process is alone; ends it where it is one of several.

    It ends at once if the others fail as well, so that each can say its line.
    """
    if not is_multiprocess():
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):
        _client().wait_at_barrier("fedjax_mri/give_up", LAST_WORDS * 1000)
        time.sleep(LINGER if is_main_process() else 0)
    os._exit(code)  # the usual end would wait for the others


def _client() -> Any:
    return distributed.global_state.client
