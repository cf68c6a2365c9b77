"""Small simulations, one for each thing the engine must carry, and a plain loop over clients to compare them with."""

import functools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import plain_rules
from described import described
from jax.flatten_util import ravel_pytree

from fedjax_mri.core import keys, trees
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.contract import PATIENT, ClientData
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.algorithm import LocalResult, client_update, server_update
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fednova import FedNova
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.attack.backdoor import Backdoor
from fedjax_mri.fed.attack.contract import Attackers, attackers
from fedjax_mri.fed.attack.duplicates import Duplicates
from fedjax_mri.fed.attack.mimic import Mimic
from fedjax_mri.fed.attack.poison import poisoned
from fedjax_mri.fed.attack.sybils import Sybils
from fedjax_mri.fed.attack.update import CorruptState, with_attack
from fedjax_mri.fed.client.batches import Batches
from fedjax_mri.fed.client.local import ClientStart, Local, batch_gradient, step_counts
from fedjax_mri.fed.client.shuffle import shuffled
from fedjax_mri.fed.downlink import with_downlink
from fedjax_mri.fed.engine.rounds import cohort_turnout
from fedjax_mri.fed.engine.simulation import Simulation, State
from fedjax_mri.fed.privacy.mechanism import MechanismState, clip_to_one, every_client, noisy_sum, normal_like
from fedjax_mri.fed.privacy.per_patient import EXPECTED, poisson_patients, private_gradient
from fedjax_mri.fed.sampling import Cyclic, Everyone, Poisson, Population, Uniform
from fedjax_mri.fed.secure.integer import Integer
from fedjax_mri.fed.secure.masked import Masked
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import (
    Aggregate,
    Reduce,
    RoundContext,
    Sender,
    Stage,
    Update,
    Uplink,
    UplinkState,
)
from fedjax_mri.fed.uplink.preaggregators.arc import ARC
from fedjax_mri.fed.uplink.preaggregators.nnm import NNM
from fedjax_mri.fed.uplink.reductions.centred_clipping import CentredClipping
from fedjax_mri.fed.uplink.reductions.matrix import Rule, matrix
from fedjax_mri.fed.uplink.reductions.mean import mean
from fedjax_mri.fed.uplink.reductions.median import median
from fedjax_mri.fed.uplink.reductions.trimmed_mean import TrimmedMean
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.clip import clip
from fedjax_mri.fed.uplink.stages.momentum import Momentum
from fedjax_mri.fed.uplink.stages.qsgd import QSGD
from fedjax_mri.fed.uplink.stages.scaledsign import ScaledSign
from fedjax_mri.fed.uplink.stages.topk import TopK
from fedjax_mri.fed.uplink.vectors import Vectors, nearest, norms, uniform_weights
from fedjax_mri.fed.uplink.weigh import by_examples, uniformly
from fedjax_mri.fed.world.conditions import Stragglers
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.fusion import Cross
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.nets.norm import NormKind
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.nets.volume import VolumeEncoder
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.cyclegan import CycleGAN
from fedjax_mri.tasks.fusion import Fuse
from fedjax_mri.tasks.pix2pix import Pix2Pix
from fedjax_mri.tasks.task import Model, Phase, Task

SIZES = np.array([5, 0, 17, 3, 9, 12, 1, 8, 4], np.int32)  # one has nothing, three less than a batch
RATE = 0.05
BY_EXPECTED = mean("expected")
AS_GIVEN = Compute()
ATTACKERS = 2, 5
WHOLE_NUMBERS = 0.5, 20  # range, here the bound of a clip, and bits of the case with secure sums
shuffled = jax.jit(shuffled)
once = functools.cache(jax.jit)  # for functions of many operations, each of which would be compiled by itself


def images(sizes: np.ndarray = SIZES) -> ClientData:
    """Resident noise, 8 x 8 px, 3 classes."""
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (sizes.sum(), 8, 8, 1), dtype=np.uint8),
        "label": rng.integers(0, 3, sizes.sum()).astype(np.int32),
    }
    return resident(arrays, np.split(np.arange(sizes.sum()), np.cumsum(sizes)[:-1]))


def images_of_patients() -> ClientData:
    """The same images, of which each patient has one to three."""
    data, rng = images(), np.random.default_rng(1)
    numbers = [np.sort(rng.integers(0, (size + 1) // 2, size)) for size in SIZES]
    numbers = [np.unique(one, return_inverse=True)[1].astype(np.int32) for one in numbers]
    arrays = {**data.store.fields, PATIENT: np.concatenate(numbers)}
    patients = np.array([one.max(initial=-1) + 1 for one in numbers], np.int32)
    return resident(arrays, np.split(np.arange(SIZES.sum()), np.cumsum(SIZES)[:-1]))._replace(patients=patients)


def procedural() -> ClientData:
    """The same shapes, drawn where they are read."""

    def read(store: object, client: jax.Array, indices: jax.Array) -> dict[str, jax.Array]:
        one = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(7), client), i))(indices)
        pixels = jax.vmap(lambda key: jax.random.uniform(key, (8, 8, 1)))(one)
        return {"image": pixels, "label": (indices % 3).astype(jnp.int32)}

    return ClientData(SIZES, (), read)


def classifier(norm: NormKind = "group", compute: Compute = AS_GIVEN, **settings: object) -> Task:
    """System B's network, one stage wide."""
    task = Classify(network=CNNSettings(widths=(8,), hidden=8, norm=norm), **settings)  # type: ignore[arg-type]
    return task.build(described((8, 8, 1), 3), compute)


def linear(classes: int = 3, **settings: object) -> Task:
    """A linear model of the same images, which compiles in half the time."""
    return Classify(network=LinearSettings(), **settings).build(described((8, 8, 1), classes), AS_GIVEN)  # type: ignore[arg-type]


def two_players() -> Task:
    """A saddle: the second player moves against the first one's new parameters, and keeps its own at home."""

    def init(key: jax.Array) -> Model:
        weights = jax.random.normal(key, (2, 64))
        return Model({"first": weights[0], "second": weights[1]}, {"seen": jnp.float32(0)})

    def play(sign: float) -> Callable:
        def loss(params, carry, batch, key):
            x = batch["image"].astype(jnp.float32).reshape(-1, 64) / 255
            gap = (x @ params["first"] - x @ params["second"]) * batch["weight"]
            value = sign * jnp.sum(gap) / 16 + 0.1 * jnp.sum(jnp.square(params["first"]) + params["second"] ** 2)
            return value, ({"seen": carry["seen"] + batch["weight"].sum()}, jnp.sum(gap))

        return loss

    def trainable(name: str) -> Callable:
        return lambda params: {key: key == name for key in params}

    def shared(model: Model) -> Model:
        return Model({"first": True, "second": False}, {"seen": False})

    phases = (Phase(play(1.0), trainable("first")), Phase(play(-1.0), trainable("second")))
    nothing = lambda *_: ()  # noqa: E731
    return Task(init, phases, nothing, nothing, shared, nothing, nothing)


def cyclegan() -> Simulation:
    """Unpaired translation."""
    nets = GeneratorSettings(width=4, blocks=1), PatchGANSettings(width=4, halvings=1)
    return translation(CycleGAN(*nets, window=None, pool=2))


def pix2pix() -> Simulation:
    """Paired translation: a player after the other, statistics and a key in the carry, a discriminator at home."""
    nets = UNetSettings(depth=2, width=4), PatchGANSettings(width=4, halvings=1, norm="batch")
    return translation(Pix2Pix("mr", *nets, window=None, discriminators="local"))


def fusion() -> Simulation:
    """Cross-attention where two hospitals of three lack a modality, and each keeps a head."""
    rng, encoder, sizes = np.random.default_rng(0), VolumeEncoder(widths=(4,)), [3, 2, 4]
    arrays = {name: rng.uniform(size=(9, 1, 4, 4, 1)).astype(np.float32) for name in ("ct", "mr")}
    has = np.repeat(np.array([[1, 1], [1, 0], [0, 1]], np.float32), sizes, 0)
    label = np.arange(9, dtype=np.int32) % 3
    data = resident({**arrays, "label": label, "has": has}, np.split(np.arange(9), np.cumsum(sizes)[:-1]))
    network = Cross(encoder, encoder, width=4, heads=2, hidden=4)
    settings = Fuse(network=network, heads="client", dropout=0.5, window=None)
    return simulation(settings.build(described((1, 4, 4, 1), 3), Compute("xla")), data)


def translation(settings: CycleGAN | Pix2Pix) -> Simulation:
    """Between noise and darker noise by two hospitals, of which one ends on half a batch."""
    rng, sizes = np.random.default_rng(3), [3, 2]  # a draw that leaves no ReLU within rounding of its kink
    arrays = {name: rng.uniform(0, top, (5, 16, 16, 1)).astype(np.float32) for name, top in (("ct", 1), ("mr", 0.5))}
    data = resident(arrays, np.split(np.arange(5), np.cumsum(sizes)[:-1]))
    local = Local(1, 2, optax.sgd, lambda round: jnp.float32(2e-3))
    return simulation(settings.build(described((16, 16, 1)), Compute("xla")), data, local=local)


def clip_each(bound: float) -> Callable:
    """A gradient of the engine: the sum of each example's gradient, clipped, by the batch's size."""

    def gradient(loss, params, batch, key):
        def one(row: dict) -> tuple:
            return jax.grad(loss, has_aux=True)(params, jax.tree.map(lambda x: x[None], row), key)

        grads, (carry, metrics) = jax.vmap(one)(batch)
        factor = batch["weight"] * jnp.minimum(1.0, bound / jnp.maximum(jax.vmap(trees.norm)(grads), 1e-12))
        total = jax.tree.map(lambda g: jnp.tensordot(factor, g, 1) / len(factor), grads)
        return total, (trees.take(carry, 0), jax.tree.map(lambda x: x.sum(0), metrics))

    return gradient


def coin_batches(epochs: int, batch: int) -> Batches:
    """Five steps, each of which reads every other of the first examples by chance."""

    def draw(
        key: jax.Array, step: jax.Array, client: jax.Array, size: jax.Array, read: Callable
    ) -> tuple[jax.Array, dict]:
        place = jnp.arange(batch, dtype=jnp.int32)
        joins = jax.random.bernoulli(jax.random.fold_in(key, step), 0.5, (batch,))
        return place, {"weight": (joins & (place < size)).astype(jnp.float32)}

    return Batches(lambda sizes: 5 * (sizes > 0).astype(sizes.dtype), draw)


class Remembered(NamedTuple):
    """What a client of `error_feedback` keeps."""

    residual: Model  # float32, what it has not sent yet
    sends: jax.Array  # int32 []


def error_feedback(share: float) -> Stage:
    """A stage with state on both sides: clients send their largest entries and keep the rest; the server has momentum.

    It draws on each side, so that a wrong key shows, and reads the sender.
    """

    def largest(leaf: jax.Array) -> jax.Array:
        least = jnp.sort(jnp.abs(leaf).ravel())[-max(1, int(share * leaf.size))]
        return jnp.where(jnp.abs(leaf) >= least, leaf, jnp.zeros_like(leaf))

    def client(update: Update, state: Remembered, sender: Sender):
        whole = trees.add(update.delta, state.residual)
        sent = jax.tree.map(largest, whole)
        residual = trees.subtract(whole, sent)
        whose = (sender.client + sender.round).astype(jnp.float32) / sender.examples
        noisy = 1 + 0.1 * jax.random.normal(sender.key) + 0.01 * whose
        notes = {"sends": jnp.float32(1), "norm": trees.norm(sent)}
        return update._replace(delta=trees.scale(noisy, sent)), Remembered(residual, state.sends + 1), notes

    def server(aggregate: Aggregate, momentum: Model, at: RoundContext):
        momentum = trees.add(trees.scale(0.5, momentum), aggregate.delta)
        shaken = trees.scale(1 + 0.1 * jax.random.normal(at.key), momentum)
        return aggregate._replace(delta=shaken), momentum

    return Stage(
        "feedback",
        init=lambda sent: trees.zeros_like(sent.delta),
        init_client=lambda sent: Remembered(trees.zeros_like(sent.delta), jnp.int32(0)),
        client=client,
        server=server,
    )


def half_median() -> Rule:
    """The mean of the median and of what it was the round before: a rule with a memory."""

    def combine(vectors: Vectors, before: Model, at: RoundContext) -> tuple[Model, Model]:
        now, _ = median(vectors, (), at)
        return trees.scale(0.5, trees.add(now, before)), now

    return Rule("half median", combine=combine, init=lambda sent: trees.zeros_like(sent.delta))


def shortest() -> Rule:
    """The mean of the two updates of the least norm; it says which."""

    def weigh(vectors: Vectors, state: object, at: RoundContext) -> tuple[jax.Array, object]:
        return uniform_weights(nearest(norms(vectors), 2)), state

    return Rule("shortest", weigh)


def attacked(sim: Simulation, settings: Attackers) -> Simulation:
    """`sim` with an attack on its three classes."""
    attacking, attack = attackers(settings, len(SIZES)), settings.build(3)
    return sim._replace(
        uplink=with_attack(sim.uplink, attack, attacking),
        data=poisoned(sim.data, settings, 3, attacking),
        attacking=attacking,
    )


def simulation(
    task: Task,
    data: ClientData,
    stages: tuple[Stage, ...] = (),
    weigh: Callable = by_examples,
    reduce: Reduce | None = None,
    release: bool = False,
    **changes: object,
) -> Simulation:
    """Defaults: everyone takes part, two epochs of batches of 4, SGD."""
    local = Local(2, 4, optax.sgd, lambda round: jnp.float32(RATE) / (1 + round.astype(jnp.float32)))
    base = Simulation(
        task,
        FedAvg().build(),
        Uplink(weigh, chain(*stages), reduce or mean(), "release" if release else "skip"),
        Everyone().build(Population(data.sizes)),
        local,
        data,
    )
    return base._replace(**changes)


def secure(sim: Simulation, settings: Integer | Masked, **changes: object) -> Simulation:
    """`sim` with secure sums."""
    return sim._replace(uplink=settings.build(sim.uplink, sim.sampler.cohort_size(), sim.data.sizes), **changes)


def adam() -> Local:
    return Local(1, 4, optax.adam, lambda round: jnp.float32(0.01))


MIXED = UplinkSettings(before=(NNM(1), ARC(1)), reduce=TrimmedMean(1))
VIEWS, BOUND, NOISE = 2, 0.1, 0.3
PATIENT_BATCHES = poisson_patients(17, True, VIEWS, 2)
PATIENT_GRADIENT = private_gradient(BOUND, NOISE, VIEWS, 2)

CASES: dict[str, Callable[[], Simulation]] = {
    "resident": lambda: simulation(classifier(), images()),
    "procedural, Adam, cohort of 5": lambda: simulation(
        linear(augment=Augment(flip=0.5)), procedural(), local=adam(), sampler=Uniform(5).build(Population(SIZES))
    ),
    "BatchNorm averaged": lambda: simulation(classifier(norm="batch"), images()),
    "BatchNorm local": lambda: simulation(classifier(norm="batch", statistics="local"), images(), local=adam()),
    "two phases, a player at home": lambda: simulation(two_players(), images()),
    "cohort of 4, a player at home": lambda: simulation(
        two_players(), images(), local=adam(), sampler=Uniform(4).build(Population(SIZES))
    ),
    "uniform weights, clipped": lambda: simulation(
        classifier(), images(), (clip(0.05),), uniformly, algorithm=FedAvg(0.5).build()
    ),
    "stages with state, cohort of 4": lambda: simulation(
        two_players(), images(), (clip(0.5), error_feedback(0.3)), sampler=Uniform(4).build(Population(SIZES))
    ),
    "a rule on the matrix, with state": lambda: simulation(
        linear(), images(), (error_feedback(0.5),), reduce=matrix(half_median()), algorithm=FedNova().build()
    ),
    "mixed, clipped, trimmed, a Poisson cohort": lambda: simulation(
        linear(), images(), reduce=MIXED.build().reduce, sampler=Poisson(0.8).build(Population(SIZES))
    ),
    "centred clipping": lambda: simulation(
        linear(), images(), (Momentum(0.5).build(),), reduce=CentredClipping(0.05, 2).build()
    ),
    "SCAFFOLD, stages with state": lambda: simulation(
        linear(), images(), (clip(0.05), error_feedback(0.3)), uniformly, algorithm=Scaffold(server_rate=0.5).build()
    ),
    "mimics, a rule that chooses, cohort of 6": lambda: attacked(
        simulation(linear(), images(), reduce=matrix(shortest()), sampler=Uniform(6).build(Population(SIZES))),
        Mimic(clients=ATTACKERS),
    ),
    "sybils, a backdoor, copied examples, a rule with state": lambda: functools.reduce(
        attacked,
        (Duplicates(clients=(7,), copies=3), Backdoor(clients=(4,), size=2), Sybils(clients=ATTACKERS)),
        simulation(linear(), images(), (clip(0.05),), reduce=matrix(half_median())),
    ),
    "FedNova, a rule on the matrix": lambda: simulation(
        linear(), images(), reduce=matrix(half_median()), algorithm=FedNova().build()
    ),
    "expected divisor, Poisson cohort": lambda: simulation(
        linear(), images(), reduce=BY_EXPECTED, sampler=Poisson(0.5).build(Population(SIZES))
    ),
    "examples clipped, drawn by coins": lambda: simulation(
        linear(), images(), local=adam()._replace(gradient=clip_each(0.1), batches=coin_batches)
    ),
    "private, adaptive bound, correlated noise": lambda: simulation(
        linear(),
        images(),
        (clip_to_one(),),
        every_client,
        noisy_sum(*PRIVATE.values()),
        sampler=Cyclic(4).build(Population(SIZES)),
        release=True,
    ),
    "patients privately, two views of each": lambda: simulation(
        linear(augment=Augment(flip=0.5)),
        images_of_patients(),
        local=adam()._replace(batches=PATIENT_BATCHES, gradient=PATIENT_GRADIENT, batch=3),
    ),
    "masked sums, drop-outs, a Poisson cohort": lambda: secure(
        simulation(classifier(norm="batch"), images(), (clip(0.5),), sampler=Poisson(0.7).build(Population(SIZES))),
        Masked(bits=WHOLE_NUMBERS[1]),
        conditions=Stragglers(lost_before=0.1, lost_after=0.3).build(Population(SIZES)),
    ),
    "signs with feedback, cohort of 4": lambda: simulation(
        two_players(), images(), (clip(0.5), ScaledSign().build()), sampler=Uniform(4).build(Population(SIZES))
    ),
    "top-k by EF21, rounded broadcasts": lambda: simulation(
        two_players(), images(), (TopK(0.2, "ef21").build(),), algorithm=with_downlink(FedAvg().build(), QSGD(3, 16))
    ),
    "fusion, heads at home": fusion,
    "cyclegan": cyclegan,
    "pix2pix": pix2pix,
}


def plain_round(sim: Simulation, state: State, root: jax.Array) -> State:
    """One round as a researcher would first write it: a loop over clients, a loop over steps, a mean or a rule."""
    round_key, uplink, (stages, reduced) = jax.random.fold_in(root, state.round), sim.uplink, state.uplink
    cohort = once(sim.sampler.draw)(keys.purpose(round_key, keys.Purpose.SAMPLE), state.round)
    full_steps = jnp.where(cohort.present, step_counts(sim.local, jnp.asarray(sim.data.sizes)[cohort.client]), 0)
    turnout = cohort_turnout(sim, cohort, full_steps, state, root)
    updates, senders, clients = [], [], state.clients
    for place, client in enumerate(np.asarray(cohort.client)):
        if not turnout.steps[place]:  # absent, without examples, or lost
            continue
        row, staleness = once(trees.take)(clients, client), cohort.staleness[place]
        server, times = sim.algorithm.broadcast(state.server, staleness), cohort.times[place] * turnout.share[place]
        start = ClientStart(trees.join(server.model, row.model), server, row.state)
        model, steps, accumulated = plain_client(sim, state, start, int(client), root, int(turnout.steps[place]))
        shared, rest = trees.split(sim.task.shared(model), model)
        examples, rate = jnp.float32(sim.data.sizes[client]), sim.local.schedule(state.round)
        result = LocalResult(shared, jnp.int32(steps), examples, rate, staleness, times, accumulated)
        update = client_update(sim.algorithm, state.server, server, row.state, result)
        update = update._replace(weight=uplink.weigh(update.weight) * times)
        key = keys.purpose(keys.client(root, state.round, jnp.int32(client)), keys.Purpose.UPLINK)
        sender = Sender(jnp.int32(client), state.round, key, examples, times, state.uplink)
        update, own, _ = uplink.stages.client(update, row.uplink, sender)
        remembered = sim.algorithm.update_client_state(server, row.state, result, update)
        row = row._replace(model=rest, state=remembered, uplink=own, rounds=row.rounds + 1)
        clients = once(trees.put)(clients, client, row)
        updates.append(update)
        senders.append(int(client))
    corrupted = isinstance(reduced, CorruptState)
    if corrupted:
        updates, crafted = plain_attack(sim, updates, senders, reduced.attack)
        reduced = reduced.reduce
    if uplink.reduce.reports_shares:
        norms = [float(trees.norm(update.delta)) for update in updates]
        for place in np.argsort(norms, kind="stable")[2:]:
            clients = clients._replace(left_out=clients.left_out.at[senders[place]].add(1))
    if not updates and uplink.empty_round == "skip":
        return state._replace(round=state.round + 1)
    weights = np.array([float(uplink.weigh(jnp.float32(size))) for size in sim.data.sizes])
    everyone, often = weights.sum(), sim.sampler.participation
    rate = sim.sampler.rate if often is None else np.asarray(often, np.float64) @ weights / everyone
    if uplink.reduce.name == "private sum":
        key = keys.round_purpose(round_key, keys.RoundPurpose.REDUCE)
        aggregate, reduced = plain_private_sum(updates, everyone * rate, reduced, key)
    else:
        aggregate, reduced = plain_reduce(uplink.reduce, updates, everyone, rate, reduced)
    reduced = CorruptState(crafted, reduced) if corrupted else reduced
    key = keys.purpose(round_key, keys.Purpose.SERVER)
    at = RoundContext(state.round, key, jnp.float32(everyone), jnp.float32(everyone * rate))
    aggregate, stages = uplink.stages.server(aggregate, stages, at)
    server = server_update(sim.algorithm, state.server, aggregate)
    return State(state.round + 1, server, UplinkState(stages, reduced), clients)


def plain_attack(sim: Simulation, updates: list[Update], senders: list[int], before: object):
    """The updates with those of attackers replaced, and the state of the attack after it, in NumPy."""
    attacking = [bool(sim.attacking[client]) for client in senders]
    honest = [update.delta for update, bad in zip(updates, attacking) if not bad]
    if before == ():  # sybils: the mean of their own
        own = [update.delta for update, bad in zip(updates, attacking) if bad]
        vector, after = jax.tree.map(lambda *leaves: np.float32(np.mean(leaves, 0, np.float64)), *own), ()
    else:
        tree = jax.tree.structure(before.z)
        shapes = [leaf.shape for leaf in jax.tree.leaves(before.z)]
        flat = lambda one: np.concatenate([np.float64(leaf).ravel() for leaf in jax.tree.leaves(one)])  # noqa: E731
        rows, z, share = np.stack([flat(one) for one in honest]), flat(before.z), 1 / (1 + float(before.round))
        gaps = rows - rows.mean(0)
        change = gaps.T @ (gaps @ z)
        z = (1 - share) * z + share * change / np.linalg.norm(change)
        z /= np.linalg.norm(z)
        vector = honest[np.argmax(np.abs(gaps @ z))]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        leaves = [jnp.float32(part).reshape(shape) for part, shape in zip(np.split(z, ends), shapes)]
        after = type(before)(before.round + 1, jax.tree.unflatten(tree, leaves))
    return [update._replace(delta=vector) if bad else update for update, bad in zip(updates, attacking)], after


def plain_reduce(reduce: Reduce, updates: list[Update], everyone: float, rate: float, before: Model):
    """The aggregate, and what the server remembers of it, by sums and sorting in NumPy."""
    weights = np.array([float(update.weight) for update in updates])
    total = weights.sum()

    def weighted(divisor: float, *leaves: np.ndarray) -> np.ndarray:
        return np.float32(sum(w * np.asarray(leaf, np.float64) for w, leaf in zip(weights, leaves)) / divisor)

    def whole(range: float, bits: int, *leaves: np.ndarray) -> np.ndarray:
        steps = sum(np.trunc(np.float64(w) * leaf / range * 2**bits) for w, leaf in zip(weights, leaves))
        return np.float32(steps / 2**bits * range / total)

    def middle(*leaves: np.ndarray) -> np.ndarray:
        return np.float32(np.median(np.stack(leaves).astype(np.float64), 0))

    deltas, auxiliaries = [update.delta for update in updates], [update.auxiliary for update in updates]
    auxiliary = jax.tree.map(partial(weighted, total), *auxiliaries)
    if reduce.name == "half median":
        now = jax.tree.map(middle, *deltas)
        delta, before = trees.scale(0.5, trees.add(now, before)), now
    elif reduce.name == "shortest":
        few = sorted(deltas, key=lambda delta: float(trees.norm(delta)))[:2]
        delta = jax.tree.map(lambda *leaves: np.float32(np.sum(np.float64(leaves), 0) / 2), *few)
    elif reduce.name == "trimmedmean":
        delta = plain_rule(lambda x: plain_rules.trimmed_mean(plain_rules.arc(plain_rules.nnm(x, 1), 1), 1), deltas)
    elif reduce.name == "centredclipping":
        delta = before = plain_rule(lambda x: plain_rules.centred_clipping(x[1:], x[0], 0.05, 2), [before, *deltas])
    elif reduce.name == "median":
        delta = jax.tree.map(middle, *deltas)
    elif reduce.name == "masked mean":
        delta = jax.tree.map(partial(whole, *WHOLE_NUMBERS), *deltas)
    else:
        delta = jax.tree.map(partial(weighted, total), *deltas)
        if reduce is BY_EXPECTED:  # of parameters alone
            delta = delta._replace(params=trees.scale(total / (everyone * rate), delta.params))
    return Aggregate(
        delta, auxiliary, jnp.float32(total), jnp.float32(len(updates)), jnp.float32(total / everyone)
    ), before


def plain_rule(rule: Callable, several: list[Model]) -> Model:
    """What a rule on rows [n, P] makes of trees."""
    rows, unravel = [np.float64(ravel_pytree(one)[0]) for one in several], ravel_pytree(several[0])[1]
    return unravel(jnp.asarray(rule(np.stack(rows)), jnp.float32))


PRIVATE = {"clip": 0.05, "noise": 0.2, "quantile": 0.5, "bands": 3}


def plain_private_sum(updates: list[Update], expected: float, before: MechanismState, key: jax.Array):
    """The sum of updates of norm 1 at most, plus noise by the recursion of the bands, in NumPy; and the next bound."""
    bound, norms = float(before.bound), [float(trees.norm(update.delta)) for update in updates]
    assert max(norms, default=0) <= 1 + 1e-6
    counting, quantile, bands = expected / 20, PRIVATE["quantile"], PRIVATE["bands"]
    deviation = (PRIVATE["noise"] ** -2 - (2 * counting) ** -2) ** -0.5
    fresh = normal_like(jax.random.fold_in(key, 0), jax.tree.map(lambda w: w[0], before.earlier))
    c = [1.0, 1 / 2, 3 / 8][:bands]
    c = [one / np.sqrt(sum(each**2 for each in c)) for one in c]
    noise = jax.tree.map(
        lambda z, w: (np.float64(z) - sum(c[j] * np.float64(w[j - 1]) for j in range(1, bands))) / c[0],
        fresh,
        before.earlier,
    )
    weights = [float(update.weight) for update in updates]

    def released(noise: np.ndarray, *leaves: jax.Array) -> np.ndarray:
        total = sum((w * np.float64(leaf) for w, leaf in zip(weights, leaves)), np.zeros(np.shape(noise)))
        return np.float32(bound * (total + deviation * noise) / expected)

    delta = jax.tree.map(released, noise, *[update.delta for update in updates])
    count = sum(0.5 if norm < 1 - 1e-6 else -0.5 for norm in norms)
    count += counting * float(jax.random.normal(jax.random.fold_in(key, 1)))
    bound *= np.exp(-0.2 * (0.5 + count / expected - quantile))
    earlier = jax.tree.map(lambda n, w: np.concatenate([np.float32(n)[None], w[:-1]]), noise, before.earlier)
    ones = jnp.float32(expected)
    return Aggregate(delta, (), ones, ones, ones / len(SIZES)), MechanismState(jnp.float32(bound), earlier)


def plain_client(
    sim: Simulation, state: State, start: ClientStart, client: int, root: jax.Array, most: int = 10**9
) -> tuple[Model, int, object]:
    """Epochs over one client's examples, `most` steps of them, each phase with its own optimiser.

    Gives model, steps, what was accumulated.
    """
    size, model = int(sim.data.sizes[client]), start.model
    rate = sim.local.schedule(state.round)
    optimizer = sim.local.optimizer(rate)
    with jax.numpy_dtype_promotion("standard"):
        optimizers = [optimizer.init(trees.split(p.trainable(model.params), model.params)[0]) for p in sim.task.phases]
    key = keys.client(root, state.round, jnp.int32(client))
    accumulated, shuffles = None, keys.purpose(key, keys.Purpose.SHUFFLE)
    read = partial(once(sim.data.read), sim.data.store, jnp.int32(client))
    chosen = plain_batches(sim.local, shuffles, size, read)
    for step, (examples, fields) in enumerate(chosen[:most]):
        picked = sim.data.pick(examples, jnp.int32(client), jnp.int32(size))
        shifted = once(sim.data.shift)(read(picked), jnp.int32(client), picked, state.round)
        batch = {**shifted, **fields}
        step_key = jax.random.fold_in(keys.purpose(key, keys.Purpose.STEP), step)
        progress = jnp.float32(step / len(chosen))
        model, found = plain_step(sim, rate, optimizers, start, model, batch, progress, step_key)
        accumulated = found if accumulated is None else trees.add(accumulated, found)
    return model, len(chosen[:most]), accumulated


def plain_batches(local: Local, key: jax.Array, size: int, read: Callable) -> list[tuple[jax.Array, dict]]:
    """Examples [B] and fields such as weights [B] of each local step."""
    if local.batches is coin_batches:
        draw = coin_batches(local.epochs, local.batch).draw
        return [draw(key, jnp.int32(step), jnp.int32(0), jnp.int32(size), read) for step in range(5 * (size > 0))]
    if local.batches is PATIENT_BATCHES:
        steps = local.epochs * -(-size // (local.batch * VIEWS))
        return [plain_patients(jax.random.fold_in(key, step), local.batch, size, read) for step in range(steps)]
    found = []
    for epoch in range(local.epochs):
        order = shuffled(jax.random.fold_in(key, epoch), jnp.arange(size, dtype=jnp.int32), jnp.int32(size))
        for first in range(0, size, local.batch):
            chosen = order[first : first + local.batch]
            weight = (jnp.arange(local.batch) < len(chosen)).astype(jnp.float32)
            found.append((jnp.pad(chosen, (0, local.batch - len(chosen))), {"weight": weight}))
    return found


def plain_patients(key: jax.Array, batch: int, size: int, read: Callable) -> tuple[jax.Array, dict]:
    """The views of each patient who comes, the one with the lowest coin first; a coin for each of 17."""
    whose = np.asarray(read(jnp.arange(17, dtype=jnp.int32))[PATIENT])[:size]
    coins, order = jax.random.split(key)
    tossed, count = np.asarray(jax.random.uniform(coins, (17,)))[: whose.max() + 1], int(whose.max()) + 1
    chosen = []
    for patient in np.argsort(tossed)[: np.sum(tossed < min(1.0, batch / count))]:
        own = np.flatnonzero(whose == patient)
        turns = jnp.arange(VIEWS, dtype=jnp.int32) % len(own)
        chosen += own[np.asarray(shuffled(jax.random.fold_in(order, patient), turns, jnp.int32(len(own))))].tolist()
    weight, first = jnp.ones(len(chosen)), chosen or [0] * VIEWS  # a step without patients has noise alone
    expected = jnp.full(len(first), min(batch, count), jnp.float32)
    return jnp.array(first, jnp.int32), {"weight": weight, EXPECTED: expected}


@functools.cache
def gradient(loss: Callable) -> Callable:
    return jax.jit(jax.grad(loss, has_aux=True))


def plain_gradient(local: Local, loss: Callable, model: Model, batch: dict, key: jax.Array) -> tuple:
    """The gradient, and what the loss leaves; for `clip_each` example by example."""
    if local.gradient is batch_gradient:
        return gradient(loss)(model.params, model.carry, batch, key)
    total, count = trees.zeros_like(model.params), len(batch["weight"])
    if local.gradient is PATIENT_GRADIENT:
        expected = float(batch[EXPECTED][0])
        noise = normal_like(jax.random.fold_in(key, 1), model.params)
        for place in range(count // VIEWS):  # none if nobody came
            views = jax.tree.map(lambda x, first=place * VIEWS: x[first : first + VIEWS], batch)
            own = jax.random.fold_in(jax.random.fold_in(key, 0), place)
            grads, left = gradient(loss)(model.params, model.carry, views, own)
            total = trees.add(total, trees.scale(min(1.0, BOUND / float(trees.norm(grads))), grads))
        return trees.scale(1 / expected, trees.add(total, trees.scale(BOUND * NOISE, noise))), (model.carry, ())
    for number in range(count):
        row = jax.tree.map(lambda x, n=number: x[n : n + 1], batch)
        grads, left = gradient(loss)(model.params, model.carry, row, key)
        factor = float(row["weight"][0]) * min(1.0, 0.1 / max(float(trees.norm(grads)), 1e-12)) / count
        total = trees.add(total, trees.scale(factor, grads))
    return total, left


@functools.cache
def optimizer_step(optimizer: Callable) -> Callable:
    """The parameters and the optimiser's state after a step at some rate."""

    @jax.jit
    def step(rate: jax.Array, grads: dict, state: optax.OptState, params: dict) -> tuple[dict, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer(rate).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def plain_step(
    sim: Simulation,
    rate: jax.Array,
    optimizers: list,
    start: ClientStart,
    model: Model,
    batch: dict,
    progress: jax.Array,
    key: jax.Array,
) -> tuple[Model, object]:
    algorithm, total = sim.algorithm, trees.zeros_like(model.params)
    held = algorithm.frozen(model.params, progress)
    for number, phase in enumerate(sim.task.phases):
        mask, before = phase.trainable(model.params), model
        grads, (carry, _) = plain_gradient(sim.local, phase.loss, model, batch, jax.random.fold_in(key, number))
        if phase.penalty is not None:
            grads = trees.add(grads, jax.grad(phase.penalty)(model.params))
        grads = jax.tree.map(lambda moves, g: g if moves else jnp.zeros_like(g), mask, grads)
        total = trees.add(total, grads)
        changed = algorithm.gradient(grads, model.params, start.model.params, start.server, start.state)
        changed = jax.tree.map(lambda hold, g: jnp.zeros_like(g) if hold else g, held, changed)
        moving = trees.split(mask, model.params)
        step, towards = optimizer_step(sim.local.optimizer), trees.split(mask, changed)[0]
        ours, optimizers[number] = step(rate, towards, optimizers[number], moving[0])
        model = Model(trees.join(ours, moving[1]), carry)
        stays = lambda hold, old, new: old if hold else new  # noqa: E731
        model = model._replace(params=jax.tree.map(stays, held, before.params, model.params))
    return model, algorithm.accumulate(total, batch["weight"].sum(), progress)
