"""The parts of a simulation, built from a config: the task alone, or all that is trained."""

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.building import build
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.data.contract import ClientData, DataDescription, Federation
from fedjax_mri.data.resident import example_fields
from fedjax_mri.fed.algorithm import Algorithm, traffic
from fedjax_mri.fed.attack.contract import attackers
from fedjax_mri.fed.attack.poison import poisoned, refuse_unread, with_success_test
from fedjax_mri.fed.attack.update import refuse_secure, with_attack
from fedjax_mri.fed.client.local import Local, step_counts
from fedjax_mri.fed.downlink import check_downlink, with_downlink
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, cohort_key
from fedjax_mri.fed.sampling import Population, Sampler
from fedjax_mri.fed.traffic import Traffic
from fedjax_mri.fed.uplink.contract import PyTree, Uplink
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.run import initial
from fedjax_mri.run.config import Experiment
from fedjax_mri.tasks.task import Task, check_shared

ONE_CLIENT = Population(np.ones(1, np.int32), patients=np.ones(1, np.int32))  # before data are read
NOBODY = np.zeros(1, bool)
ANY_CLASSES = 2**15  # before data are read every class may exist


class Method(NamedTuple):
    """How clients learn and how the server aggregates: the parts of a simulation that need no data."""

    local: Local
    uplink: Uplink
    algorithm: Algorithm


def build_method(config: Experiment) -> Method:
    """Returns the method of a config. Raises UserError on bad settings.

    The noise of a private run depends on its data. Here it is NaN, which no model would survive; `assemble_simulation`
    knows it.
    """
    uplink, local = private_parts(config, math.nan)
    return Method(local, uplink, build_algorithm(config))


def build_algorithm(config: Experiment) -> Algorithm:
    """Returns the algorithm of a config, with its downlink. Raises UserError on bad settings."""
    return with_downlink(build(config.algorithm, Algorithm), config.downlink)


def private_parts(
    config: Experiment,
    noise: float,
    cohort_size: int = 1,
    clients: Population = ONE_CLIENT,
    classes: int = ANY_CLASSES,
    attacking: np.ndarray | jax.Array = NOBODY,
) -> tuple[Uplink, Local]:
    """Returns the uplink and the local training of a config with its privacy, which adds `noise`, and secure sums.

    cohort_size: places of a cohort; clients: all there are; classes: of their examples; attacking: bool [N], clients
    that attack. The shapes of states depend on none of these, nor on the noise.
    """
    attack = config.attack.build(classes)
    uplink, local = config.privacy.build(config.uplink, config.local.build(config.rounds), noise, clients)
    refuse_secure(attack, config.secure.hides())
    uplink = with_attack(uplink, attack, jnp.asarray(attacking))
    return config.secure.build(uplink, cohort_size, clients.sizes), local


def build_federation(config: Experiment) -> Federation:
    """Returns the data of a config, with the test set that measures its attack. Raises UserError on bad settings."""
    return with_success_test(check.build_source(config.data, config.seed), config.attack)


def assemble(config: Experiment, described: DataDescription, data: ClientData, plan: Plan) -> Simulation:
    """Returns the simulation that a config describes, for a resolved plan. Raises UserError on bad settings."""
    return assemble_simulation(config, build_method(config), described, data, plan)


def assemble_simulation(
    config: Experiment, method: Method, described: DataDescription, data: ClientData, plan: Plan
) -> Simulation:
    """Returns the simulation that a config describes, of whose parts `method` has been built before."""
    task = assemble_task(config, method.algorithm, described, compute_of(plan))
    refuse_distillation(config, method.algorithm, task)
    classes = len(described.classes)
    attack = config.attack.build(classes)
    refuse_unread(attack, task.reads)
    clients = population(config, task, method, data)
    sampler = build(config.sampling, Sampler, clients)
    check_downlink(config.downlink, sampler, config.conditions)
    guarantee = config.privacy.guarantee(sampler, clients)
    noise = guarantee.noise if guarantee else 0.0
    attacking = attackers(config.attack, len(data.sizes))
    uplink, local = private_parts(config, noise, sampler.cohort_size(), clients, classes, attacking)
    return Simulation(
        task=task,
        algorithm=method.algorithm,
        uplink=uplink,
        sampler=sampler,
        local=local,
        data=poisoned(data, config.attack, classes, attacking),
        conditions=config.conditions.build(clients),
        guarantee=guarantee,
        attacking=None if attack is None else attacking,
    )


def with_fixed_noise(config: Experiment, described: DataDescription, data: ClientData) -> Experiment:
    """Returns `config` with the noise that its budget leads to on `data` in place of the budget, and without an audit.

    A run that stands for another, on other data, then adds the same noise. Raises UserError as `assemble` does.
    """
    guarantee = assemble(config, described, data, config.plan.resolve()).guarantee
    if guarantee is None:
        return config
    return replace(config, privacy=replace(config.privacy, epsilon=0.0, noise=guarantee.noise, audit=0))


def assemble_task(config: Experiment, algorithm: Algorithm, described: DataDescription, compute: Compute) -> Task:
    """Returns what clients of a built algorithm train; reads `config.task` and `config.init_from` alone.

    Raises UserError on bad settings, and if a part of the model would travel that cannot be averaged.
    """
    task = build(config.task, Task, described, compute)
    if task.with_encoder is not None:
        from fedjax_mri.run import encoder  # here, as it restores runs, which needs this module

        task = task.with_encoder(encoder.of_run)
    task = algorithm.task(initial.with_initial_weights(config.init_from, described.classes, task))
    check_shared(task)
    return task


def compute_of(plan: Plan) -> Compute:
    """Returns how a resolved plan computes networks."""
    assert plan.conv != "auto", "resolve the plan first"
    return Compute(plan.conv, plan.precision, plan.remat)


def refuse_distillation(config: Experiment, algorithm: Algorithm, task: Task) -> None:
    """Raises UserError when an ensemble is to be distilled and there is none."""
    if config.distil.epochs and (algorithm.member is None or task.tally is None):
        raise UserError(
            f"distil.epochs={config.distil.epochs}: there is no ensemble; choose --fed.algorithm oneshot and a task "
            "that can judge predictions, as classification can"
        )


def population(config: Experiment, task: Task, method: Method, data: ClientData) -> Population:
    """Returns what samplers and conditions must know of the clients."""

    def shared(key: jax.Array) -> PyTree:
        model = task.init(key)
        return trees.split(task.shared(model), model)[0]

    def each() -> Traffic:
        return traffic(method.algorithm, method.uplink, jax.eval_shape(shared, jax.random.key(0)))

    local, key = method.local, partial(cohort_key, jax.random.key(config.seed))
    return Population(
        sizes=data.sizes,
        steps=step_counts(local, data.sizes),
        epochs=local.epochs,
        epoch_steps=step_counts(local._replace(epochs=1, max_steps=None), data.sizes),
        traffic=each,
        rounds=config.rounds,
        batch=local.batch,
        patients=data.patients,
        key=key,
    )


def describe(federation: Federation) -> DataDescription:
    """Returns what a task must know of a federation's data, as the federation says it or `read` shows."""
    labels = tuple(int(count) for count in np.sum(federation.labels, 0))
    image = federation.image or image_shape(federation.train, federation.images[0])
    of_images = federation.modalities, federation.spacing, federation.window, federation.pictures
    return DataDescription(image, federation.classes, len(federation.train.sizes), labels, *of_images)


def image_shape(data: ClientData, field: str) -> tuple[int, ...]:
    """Returns the shape of one example's `field`, by tracing `read`. Raises UserError where batches lack the field."""
    fields = example_fields(data)
    if field not in fields:
        raise UserError(f"data: its images are said to be in {field!r}, its batches hold {', '.join(fields)}")
    return fields[field].shape[1:]
