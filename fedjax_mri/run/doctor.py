"""What a report of a fault needs: versions, devices, caches, memory, settings of JAX, and whether training works."""

import os
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from fedjax_mri.core import cache, memory, trees
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, initial_state
from fedjax_mri.fed.sampling import Everyone, Population
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run import runfolder
from fedjax_mri.tasks.classify import Classify

SETTINGS = ("JAX_", "XLA_", "CUDA_", "TPU_", "SLURM_JOB", "OMP_", "XDG_CACHE_HOME")  # beginnings of variables' names
EXAMPLES, RATE, TOLERANCE = 8, 0.1, 1e-5


def facts() -> Iterator[tuple[str, str]]:
    """Yields names and values of what is installed, and of the machine."""
    yield from runfolder.environment("by the config").items()
    limit = memory.host_limit()
    yield "memory", f"{limit.bytes / 1e9:.1f} GB, {limit.source}"
    for device in jax.local_devices()[:1]:
        held = (device.memory_stats() or {}).get("bytes_limit")
        yield "device memory", f"{held / 1e9:.1f} GB each" if held else "that of the host"
    place = cache.users_folder()
    yield "cache", f"{place}, {size(place) / 1e6:.0f} MB" if place else "none"
    for name, value in {**runfolder.numerics(), **os.environ}.items():
        if name.startswith((*SETTINGS, "jax_")):
            yield name, value


def size(folder: pathlib.Path) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def self_test() -> str:
    """Trains a round of two clients on all devices, and returns what is wrong with the result; "" if nothing is.

    The model is linear, and each client takes one step on all of its examples, so that NumPy knows the new model.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2 * EXAMPLES, 1, 1, 5)).astype(np.float32), rng.integers(0, 3, 2 * EXAMPLES)
    clients = np.split(np.arange(2 * EXAMPLES), 2)
    data = resident({"image": x, "label": y.astype(np.int32)}, clients)
    task = Classify(network=LinearSettings()).build(DataDescription((1, 1, 5), ("a", "b", "c"), 2), Compute("xla"))
    sampler, chain = Everyone().build(Population(data.sizes)), UplinkSettings().build()
    local = Local(1, EXAMPLES, optax.sgd, lambda round: jnp.float32(RATE))
    sim = Simulation(task, FedAvg().build(), chain, sampler, local, data)
    plan, root = Plan(lanes=1, conv="xla").resolve(), jax.random.key(0)
    before = initial_state(sim, plan, root)
    start = trees.named(jax.tree.map(np.array, before.server.model.params))
    after, *_ = segments.build(sim, plan, root, 1)(before, 1)
    end = trees.named(jax.tree.map(np.array, after.server.model.params))
    differ = max(float(np.abs(end[name] - value).max()) for name, value in moved(start, x[:, 0, 0], y).items())
    return "" if differ < TOLERANCE else f"a round differs from NumPy by {differ:.2g}: the device or JAX is at fault"


def moved(weights: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the kernel and the bias of softmax regression after a step on x [n, d] and labels y [n], in float64.

    The mean of clients of equal size that take one step each is one step on all of their examples.
    """
    kernel, bias = (next(name for name in weights if name.endswith(end)) for end in ("kernel", "bias"))
    scores = x.astype(np.float64) @ weights[kernel] + weights[bias]
    error = special.softmax(scores, 1) - np.eye(scores.shape[1])[y]
    return {
        kernel: weights[kernel] - RATE * x.T @ error / len(x),
        bias: weights[bias] - RATE * error.mean(0),
    }
