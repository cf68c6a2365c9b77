"""Who gains from whose taking part: a run trained again, short, without each of its sites."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.clock import Clock
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.fed.engine import evaluate, placement, segments
from fedjax_mri.fed.engine.lanes import RoundStats
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State, initial_state
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.fed.secure.masked import Masked
from fedjax_mri.run import loop
from fedjax_mri.run.assemble import assemble, describe
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.loop import Training

MAX_SITES = 64  # a run is trained once for each of them


def gains(config: Experiment, federation: Federation, rounds: int, say: Callable[[str], None]) -> np.ndarray:
    """Returns what each site's taking part adds to the score of each other, float [N, N]; [k, j]: what k's adds to j's.

    The run is trained on its `federation` for `rounds` rounds by everyone, and once without each site, all else the
    same. A site without test examples has nan. Raises UserError for more than MAX_SITES sites, where no test set
    belongs to training sites, where predictions are not finite, and where updates are hidden.
    """
    sites = len(federation.train.sizes)
    refuse_many(sites)
    if isinstance(config.secure, Masked):
        raise UserError(
            "--leave-one-out: a sum with a site and one without it show its update, which fed.secure masked is to "
            "hide; audit a run of the same config with --fed.secure integer"
        )
    test = next((test for test in federation.tests.values() if (test.owner >= 0).any()), None)
    if test is None:
        raise UserError("--leave-one-out: no test set belongs to the sites that train; nobody could gain")
    plan = replace(config.plan, data="replicated", clients="device").resolve()
    score = scorer(config, federation, plan, rounds, test)
    scores = []
    for site in (-1, *range(sites)):
        scores.append(score(site))
        say(f"trained {rounds} rounds " + (f"without site {site} of {sites}" if site >= 0 else "with everyone"))
    return scores[0][None] - np.stack(scores[1:])


def refuse_many(sites: int) -> None:
    """Raises UserError where leaving sites out one by one would take too long."""
    if sites > MAX_SITES:
        raise UserError(
            f"--leave-one-out: {sites} sites would be {sites + 1} runs; this is for {MAX_SITES} sites or fewer"
        )


def scorer(
    config: Experiment, federation: Federation, plan: Plan, rounds: int, test: Test
) -> Callable[[int], np.ndarray]:
    """Returns a function: site left out, -1 for none -> score of each site after training without it, float [N]."""
    described, root = describe(federation), jax.random.key(config.seed)

    def simulation(without: Any) -> Simulation:
        return assemble(replace(config, sampling=Everyone(without)), described, federation.train, plan)

    def several(
        state: State, root: jax.Array, placed: PlacedData, length: jax.Array, without: jax.Array
    ) -> tuple[State, RoundStats]:
        return segments.run_rounds(simulation(without), plan, rounds, state, root, placed, length)

    sim, placed = simulation(-1), placement.place_examples(federation.train, plan)
    first, evaluated = initial_state(sim, plan, root), evaluate.build(sim.task, plan, {"test": test})
    program = segments.compile_rounds(plan, several, first, root, placed, np.int32(0), np.int32(-1))

    def score(without: int) -> np.ndarray:
        def advance(state: State, length: int) -> tuple[State, RoundStats]:
            return program(state, root, placed, np.int32(length), np.int32(without))

        def scores(state: State, trained: RoundStats | None) -> np.ndarray | None:
            if trained is None:
                return None
            found = evaluated(with_mean_part(state, without))
            if failure := evaluate.failure(found):
                who = f"without site {without}" if without >= 0 else "with everyone"
                raise UserError(f"--leave-one-out, {rounds} rounds {who}: {failure}; give fewer --rounds")
            metrics = found["test"].metrics
            return np.asarray(sim.task.score(trees.sum_by(metrics, test.owner, len(federation.train.sizes))))

        training = Training(rounds, rounds, lambda: advance, scores)
        scored = loop.train(training, jax.tree.map(jnp.copy, first), 0, [], Clock()).evaluated
        assert scored is not None  # there is at least one round
        return scored

    return score


def with_mean_part(state: State, site: int) -> State:
    """Returns `state` where the `site` left out has the mean of the others' own parts, as any that took no part."""
    if site < 0:
        return state
    mean = evaluate.client_parts(state.clients, np.array([-1]))
    model = trees.put(state.clients.model, jnp.array([site]), mean)
    return state._replace(clients=state.clients._replace(model=model))
