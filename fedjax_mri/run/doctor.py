"""What a report of a fault needs: versions, devices, caches, memory, settings of JAX, and whether training works."""

import os
from collections.abc import Iterator

import jax
import numpy as np
from scipy import special

from fedjax_mri.core import cache, memory, trees
from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.engine import segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import initial_state
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run import runfolder
from fedjax_mri.run.assemble import assemble, build_federation, describe
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

SETTINGS = ("JAX_", "XLA_", "CUDA_", "TPU_", "SLURM_JOB", "OMP_", "XDG_CACHE_HOME")  # beginnings of variables' names
RATE, TOLERANCE = 0.01, 1e-5
CONFIG = Experiment(
    data=Synthetic(clients=2),  # of 1,718 and 153 examples
    task=Classify(network=LinearSettings()),
    local=LocalTraining(epochs=1, batch=2000, learning_rate=RATE, optimizer="optax.sgd"),
    sampling=Everyone(),
    plan=Plan(lanes=1, conv="xla"),
)


def facts() -> Iterator[tuple[str, str]]:
    """Yields names and values of what is installed, and of the machine."""
    yield from runfolder.environment("by the config").items()
    limit = memory.host_limit()
    yield "memory", f"{limit.bytes / 1e9:.1f} GB, {limit.source}"
    for device in jax.local_devices()[:1]:
        held = (device.memory_stats() or {}).get("bytes_limit")
        yield "device memory", f"{held / 1e9:.1f} GB each" if held else "that of the host"
    place = cache.users_folder()
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) if place else 0
    yield "cache", f"{place}, {size / 1e6:.0f} MB" if place else "none"
    for name, value in {**runfolder.numerics(), **os.environ}.items():
        if name.startswith((*SETTINGS, "jax_")):
            yield name, value


def self_test() -> str:
    """Trains a round of two clients on all devices, and returns what is wrong with the result; "" if nothing is.

    The model is linear, and each client takes one step on all of its examples, so that NumPy knows the new model.
    """
    federation = build_federation(CONFIG)
    plan, root = CONFIG.plan.resolve(), jax.random.key(CONFIG.seed)
    sim = assemble(CONFIG, describe(federation), federation.train, plan)
    before = initial_state(sim, plan, root)
    start = trees.named(jax.tree.map(np.array, before.server.model.params))
    after, *_ = segments.build(sim, plan, root, 1)(before, 1)
    end = trees.named(jax.tree.map(np.array, after.server.model.params))
    examples = federation.train.store.fields
    expected = after_a_step(start, examples["image"][:, 0, 0], examples["label"])
    differ = max(float(np.abs(end[name] - value).max()) for name, value in expected.items())
    return "" if differ < TOLERANCE else f"a round differs from NumPy by {differ:.2g}: the device or JAX is at fault"


def after_a_step(weights: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the kernel and the bias of softmax regression after a step on x [n, d] and labels y [n], in float64.

    The mean of clients by examples, each of which takes one step, is one step on all of their examples.
    """
    kernel, bias = (next(name for name in weights if name.endswith(end)) for end in ("kernel", "bias"))
    scores = x.astype(np.float64) @ weights[kernel] + weights[bias]
    error = (special.softmax(scores, 1) - np.eye(scores.shape[1])[y]) / len(x)
    return {kernel: weights[kernel] - RATE * x.T @ error, bias: weights[bias] - RATE * error.sum(0)}
