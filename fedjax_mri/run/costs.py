"""What a run of a config will cost, before it is started."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.data import check, precomputed
from fedjax_mri.fed.algorithm import traffic
from fedjax_mri.fed.client.local import init_optimizers, step_counts
from fedjax_mri.fed.engine.auto import describe_plan
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, check_parts, state_shapes
from fedjax_mri.fed.privacy.contract import Guarantee
from fedjax_mri.run.assemble import assemble, describe
from fedjax_mri.run.config import Experiment


def costs(config: Experiment) -> dict[str, str]:
    """Returns what a run will cost, in words: parameters, memory of a lane, bytes and local steps of a round."""
    plan = config.plan.resolve()
    with precomputed.without_values():
        federation = check.build_source(config.data, config.seed)
    described, sizes = describe(federation), np.asarray(federation.train.sizes)
    sim = assemble(config, described, federation.train, plan)
    state = state_shapes(sim)
    check_parts(sim, state)
    model = jax.eval_shape(sim.task.init, jax.random.key(0))
    optimizers = jax.eval_shape(lambda m: init_optimizers(sim.task, sim.local, m, jnp.float32(0)), model)
    cohort = sim.sampler.cohort_size()
    steps = float(np.mean(step_counts(sim.local, jnp.asarray(sizes)))) * cohort
    lane, (down, up) = (
        2 * trees.nbytes(model) + trees.nbytes(optimizers),
        traffic(sim.algorithm, sim.uplink, state.server.model),
    )
    idle = idle_lanes(sim, plan)
    return {
        "parameters": f"{trees.count(model.params):,}",
        "clients": f"{described.clients:,} with {sizes.sum():,} examples",
        "memory per lane": f"{lane / 1e6:.2f} MB: model, gradient, optimiser",
        "bytes per round": f"{cohort * up / 1e6:.2f} MB up and {cohort * down / 1e6:.2f} down: {cohort} clients x "
        f"{up / 1e6:.3f} and {down / 1e6:.3f} MB",
        "steps per round": f"{steps:.0f} local steps expected, over {plan.devices} x {plan.lanes} lanes",
        **({"idle lanes": idle} if idle else {}),
        **({"attackers": who} if (who := attackers(config, sim)) else {}),
        **({} if sim.guarantee is None else {"guarantee": privacy(sim.guarantee, config.rounds)}),
        **({"hidden": hidden} if (hidden := config.secure.hides()) else {}),
    }


def privacy(guarantee: Guarantee, rounds: int) -> str:
    """Returns in words what a private run promises."""
    mean = guarantee.mean and guarantee.mean(rounds)
    of_hospitals = f" at the hospital that spends most, {mean:.4g} on average" if mean else ""
    return (
        f"epsilon {guarantee.epsilon(rounds):.4g} at delta {guarantee.delta:g} for each {guarantee.unit} after "
        f"{rounds} rounds{of_hospitals}, with noise multiplier {guarantee.noise:.4g}"
    )


def attackers(config: Experiment, sim: Simulation) -> str:
    """Returns in words how many clients attack, and whether the rule is for fewer; empty where there is no attack."""
    if sim.attacking is None:
        return ""
    count, clients, cohort = int(sim.attacking.sum()), len(sim.data.sizes), sim.sampler.cohort_size()
    there, rule = count * cohort / clients, sim.uplink.reduce.rule
    who = (
        f"{count} of {clients} clients attack by {type(config.attack).__name__.lower()}, {there:.3g} of a cohort of "
        f"{cohort} on average"
    )
    if rule is None or not rule.faulty or there <= rule.faulty:
        return who
    return f"{who}, and {rule.name} is for {rule.faulty}; set --uplink.reduce.faulty, or lower --attack.share"


def idle_lanes(sim: Simulation, plan: Plan) -> str:
    """Returns in words how many lanes the cohort leaves idle; empty if there are fewer lanes than clients."""
    cohort = sim.sampler.cohort_size()
    lanes = plan.devices * plan.lanes
    if lanes <= cohort:
        return ""
    fitting = max(1, cohort // plan.devices)
    advice = f"choose --plan.lanes {fitting}" if plan.lanes > 1 else f"choose --plan.devices {cohort} or fewer"
    return f"{describe_plan(plan)}: {lanes} lanes for a cohort of {cohort}, so {lanes - cohort} stay idle; {advice}"
