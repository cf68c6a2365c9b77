"""Shadow models: a run trained again on random halves of the patients, all of them as members of one program.

What is compiled, and the images on the devices, are shared. A member differs in its seed and in which images each
hospital holds.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.attack.membership import by_patient, logit_confidence
from fedjax_mri.attack.pool import Pool
from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import PATIENT, Batch, ClientData, DataDescription
from fedjax_mri.fed.engine import evaluate, members
from fedjax_mri.fed.engine.members import GroupMember, Hyperparameters, RunGroup
from fedjax_mri.fed.engine.placement import PlacedData
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, State
from fedjax_mri.run.assemble import assemble, assemble_task, compute_of
from fedjax_mri.run.config import Experiment
from fedjax_mri.tasks.task import Classifier, Model

CHUNK = 256  # images whose confidences are computed at once


class ChosenStore(NamedTuple):
    """The store of images of which each hospital holds some."""

    fields: dict[str, Any]  # [n, ...]
    row: Any  # int32 [N, most], where the images of each hospital lie in `fields`
    patient: Any  # int32 [N, most], the patient of each, numbered from 0 at each hospital


def halves(models: int, patients: int, rng: np.random.Generator) -> np.ndarray:
    """Returns which patients each of M `models` is trained on, bool [M, P]; M is even.

    Models 2 k and 2 k + 1 are a pair: what one is trained on, the other is not. So each patient is in half of the
    models, also of those that are left when a pair is.
    """
    first = rng.random((models // 2, patients)) < 0.5
    return np.stack([first, ~first], 1).reshape(models, patients)


class Chosen(NamedTuple):
    """The images that hospitals hold in one shadow model."""

    row: np.ndarray  # int32 [N, most], as in `ChosenStore`
    patient: np.ndarray  # int32 [N, most], likewise
    size: np.ndarray  # int32 [N], images of each


def choose(pool: Pool, inside: np.ndarray, clients: int, most: int) -> Chosen:
    """Returns the images of each hospital whose patients are `inside` bool [P]; those of a patient stay together."""
    mine = np.flatnonzero(inside[pool.patient])
    mine = mine[np.argsort(pool.client[mine], kind="stable")]
    size = np.bincount(pool.client[mine], minlength=clients).astype(np.int32)
    row, patient = np.zeros((2, clients, most), np.int32)
    row[there := np.arange(most) < size[:, None]] = mine
    patient[there] = pool.patient[mine]
    changes = np.diff(patient, prepend=patient[:, :1]) != 0
    return Chosen(row, np.cumsum(changes, 1, dtype=np.int32), size)


def read_chosen(store: ChosenStore, client: jax.Array, indices: jax.Array) -> Batch:
    """Returns images `indices` [B] of a hospital; past its end, any."""
    places = jnp.clip(indices, 0, store.row.shape[1] - 1)
    read = {name: field[store.row[client, places]] for name, field in store.fields.items()}
    return read | ({PATIENT: store.patient[client, places]} if PATIENT in read else {})


def see_chosen(placed: PlacedData, member: GroupMember) -> PlacedData:
    """Returns the images on the devices as a member sees them."""
    whole = trees.take(placed, jnp.int32(0))
    mine = member.hyperparameters
    return whole._replace(store=ChosenStore(whole.store.fields, mine["row"], mine["patient"]), size=mine["size"])


def shadow_group(
    config: Experiment, described: DataDescription, pool: Pool, inside: np.ndarray, plan: Plan, data: ClientData
) -> RunGroup:
    """Returns shadow models of a run, trained on the patients `inside` bool [M, P], as members on the devices.

    `data` are those of the run, of which `shift` is kept.
    """
    clients, most = described.clients, int(np.bincount(pool.client).max())
    several = [choose(pool, one, clients, most) for one in inside]
    first = several[0]
    shared = data._replace(
        sizes=first.size,
        store=ChosenStore(pool.fields, first.row, first.patient),
        read=read_chosen,
        fetch=None,
        patients=np.full(clients, most, np.int32),  # a bound: each shadow model has its own
    )

    def make(hyperparameters: Hyperparameters, size: jax.Array) -> Simulation:
        return assemble(config, described, shared._replace(sizes=size), plan)  # type: ignore[arg-type]

    each = [
        GroupMember(jax.tree.map(jnp.asarray, one._asdict()), jax.random.key(config.seed + 1 + i), jnp.int32(0))
        for i, one in enumerate(several)
    ]
    return members.place_on_devices(make, plan, each, [shared])._replace(view=see_chosen)


def member_plan(plan: Plan, parameters: int) -> Plan:
    """Returns the plan by which members of this many parameters train; their examples and states are on the devices."""
    return members.resolve_members(replace(plan, data="replicated", clients="device", loop="segment"), parameters)


def train(group: RunGroup, rounds: int, every: int, say: Callable[[str], None]) -> State:
    """Returns the states [M, ...] of all members after `rounds`; says every so many rounds how far they are."""
    state, count = members.first_states(group), len(group.members.data)
    segment = members.build(group, state, min(every, rounds))
    for done in range(0, rounds, every):
        state, _ = segment(state, np.full(count, min(every, rounds - done)))
        say(f"round {min(done + every, rounds)}/{rounds} of {count} shadow models")
    return state


def trained_models(
    config: Experiment, described: DataDescription, pool: Pool, inside: np.ndarray, data: ClientData,
    say: Callable[[str], None], rounds: int = 0,
) -> tuple[Classifier, Model]:  # fmt: skip
    """Returns the classifier of a run, and shadow models [M, ...] trained on the patients `inside` bool [M, P].

    They train for so many `rounds`; 0: as many as the run. A private config has a noise in place of a budget
    (`with_fixed_noise`), which fewer patients would spend otherwise. Raises UserError where it cannot be trained.
    """
    by_rule = config.plan.resolve()
    task = assemble_task(config, config.algorithm.build(), described, compute_of(by_rule))
    assert task.classifier is not None  # others are refused before
    plan = member_plan(by_rule, trees.count(jax.eval_shape(task.init, jax.random.key(0)).params))
    config = replace(config, rounds=rounds or config.rounds)
    group = shadow_group(config, described, pool, inside, plan, data)
    models = models_of(train(group, config.rounds, config.evaluate_every, say))
    return task.classifier, jax.tree.map(lambda leaf: leaf[: len(inside)], models)


def models_of(state: State) -> Model:
    """Returns the global models of states [M, ...]: the server's, with the mean of what stays with clients."""

    def one(state: State) -> Model:
        part = trees.take(evaluate.client_parts(state.clients, np.array([-1], np.int32)), jnp.int32(0))
        return trees.join(state.server.model, part)

    return jax.jit(jax.vmap(one))(state)


def logits_of(classifier: Classifier, models: Model, images: np.ndarray) -> np.ndarray:
    """Returns the logits, float32 [M, n, C], of models [M, ...] on images [n, ...].

    Raises UserError where those of a model are not finite.
    """

    @jax.jit
    def answers(models: Model, images: jax.Array) -> jax.Array:
        def of(images: jax.Array, model: Model) -> jax.Array:
            return classifier.predict_logits(model.params, model.carry, classifier.preprocess(images))

        return jax.lax.map(partial(of, images), models)

    count = len(images)
    chunks = [np.minimum(np.arange(start, start + CHUNK), count - 1) for start in range(0, count, CHUNK)]
    found = np.concatenate([np.asarray(answers(models, images[chunk])) for chunk in chunks], 1)[:, :count]
    if bad := int((~np.isfinite(found)).any((1, 2)).sum()):
        raise UserError(f"attack: {bad} of {len(found)} models are not finite; lower local.learning_rate")
    return found


def confidences(classifier: Classifier, models: Model, pool: Pool) -> np.ndarray:
    """Returns the mean logit confidence, float64 [M, P], of models [M, ...] on the images of each patient."""
    logits = logits_of(classifier, models, pool.fields["image"])
    return by_patient(logit_confidence(logits, pool.fields["label"]), pool.patient)
