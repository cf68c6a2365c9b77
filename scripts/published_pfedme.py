"""Repeats FedAvg on pFedMe's seeded synthetic(.5, .5), the only task of this family with a published number.

Dinh, Tran, Nguyen: Personalized Federated Learning with Moreau Envelopes, NeurIPS 2020 (arXiv 2006.08848). It has 100
users, five times as many examples, seed 0, 10 users a round, 600 rounds, batches of 20 and SGD at .02. Its "local
epochs" are steps: 20 batches a round. Its figure is the best test accuracy over rounds, mean and deviation over 10
runs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from published_scaffold import first
from trajectory import trajectory

from fedjax_mri.data.resident import whole
from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.engine import placement
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, init_state
from fedjax_mri.fed.sampling import Population, Uniform
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run.assemble import describe
from fedjax_mri.tasks.classify import Classify

DATA, SEED, ROUNDS, STEPS = Synthetic(0.5, 0.5, clients=100, times=5), 0, 600, 20
PUBLISHED = 0.7762, 0.0011  # mean and deviation


def accuracies(runs: int, rounds: int = ROUNDS, data: Synthetic = DATA) -> np.ndarray:
    """Test accuracy after each round, pooled over users, [runs, rounds]; runs differ in all but the data."""
    federation, plan = data.build(SEED), Plan(devices=1, lanes=10).resolve()
    task = Classify(network=LinearSettings()).build(describe(federation), Compute())
    chain = UplinkSettings().build()
    local = Local(2, 20, optax.sgd, lambda round: jnp.float32(0.02))  # two epochs are more than 20 steps for all
    sample = Uniform(10).build(Population(federation.train.sizes))
    sim = Simulation(task, FedAvg().build(), chain, sample, local, federation.train, first(STEPS))
    fields = whole(federation.tests["held-out"].data).fields
    batch = {**fields, "weight": np.ones(len(fields["label"]), np.float32)}

    @jax.jit
    def every(seeds: jax.Array, placed: placement.PlacedData, batch: dict[str, jax.Array]) -> jax.Array:
        def one(seed: jax.Array) -> jax.Array:
            root = jax.random.key(seed)
            start = init_state(sim, root)
            return trajectory(sim, plan, placed, root, start, rounds, judged)

        def judged(state: State) -> jax.Array:
            model = state.server.model
            return task.score(task.evaluate(model.params, model.carry, batch))

        return jax.vmap(one)(seeds)

    return np.asarray(every(jnp.arange(runs), placement.place_examples(sim.data, plan), batch))


def table(found: np.ndarray) -> str:
    """Ours beside theirs; found [runs, rounds]."""
    best = found.max(1)
    difference = 100 * (best.mean() - PUBLISHED[0])
    rows = [
        "| | best test accuracy over rounds, % | after the last round, % |",
        "|---|---|---|",
        f"| published, 10 runs [unverified] | {100 * PUBLISHED[0]:.2f} ± {100 * PUBLISHED[1]:.2f} | |",
        f"| here, {len(best)} runs | {100 * best.mean():.2f} ± {100 * best.std():.2f} "
        f"| {100 * found[:, -1].mean():.2f} ± {100 * found[:, -1].std():.2f} |",
        "",
        f"Ours is {abs(difference):.2f} points {'above' if difference > 0 else 'below'} theirs.",
    ]
    return "\n".join(rows)
