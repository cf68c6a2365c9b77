"""Small simulations, one for each thing the engine must carry, and a plain loop over clients to compare them with."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_mri.core import keys, trees
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.contract import ClientData
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.algorithm import LocalResult
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client import local as locally
from fedjax_mri.fed.client.local import Local, Start
from fedjax_mri.fed.engine.rounds import Simulation, State
from fedjax_mri.fed.sampling import Everyone, Population, Uniform
from fedjax_mri.fed.uplink import uplink
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.fusion import Cross
from fedjax_mri.nets.layers import NormKind
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
AS_GIVEN = Compute()
shuffled = jax.jit(locally.shuffled)


def images(sizes: np.ndarray = SIZES) -> ClientData:
    """Resident noise, 8 x 8 px, 3 classes."""
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 256, (sizes.sum(), 8, 8, 1), dtype=np.uint8),
        "label": rng.integers(0, 3, sizes.sum()).astype(np.int32),
    }
    return resident(arrays, np.split(np.arange(sizes.sum()), np.cumsum(sizes)[:-1]))


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
    return task.build((8, 8, 1), classes=3, compute=compute)


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

    def moves(name: str) -> Callable:
        return lambda params: {key: key == name for key in params}

    def shared(model: Model) -> Model:
        return Model({"first": True, "second": False}, {"seen": False})

    phases = (Phase(play(1.0), moves("first")), Phase(play(-1.0), moves("second")))
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
    return simulation(settings.build((1, 4, 4, 1), 3, Compute("xla")), data)


def translation(settings: CycleGAN | Pix2Pix) -> Simulation:
    """Between noise and darker noise by two hospitals, of which one ends on half a batch."""
    rng, sizes = np.random.default_rng(3), [3, 2]  # a draw that leaves no ReLU within rounding of its kink
    arrays = {name: rng.uniform(0, top, (5, 16, 16, 1)).astype(np.float32) for name, top in (("ct", 1), ("mr", 0.5))}
    data = resident(arrays, np.split(np.arange(5), np.cumsum(sizes)[:-1]))
    local = Local(1, 2, optax.sgd, lambda round: jnp.float32(2e-3))
    return simulation(settings.build((16, 16, 1), 0, Compute("xla")), data, local=local)


def simulation(task: Task, data: ClientData, stages: tuple = (uplink.by_examples(),), **changes: object) -> Simulation:
    """Defaults: everyone takes part, two epochs of batches of 4, SGD."""
    local = Local(2, 4, optax.sgd, lambda round: jnp.float32(RATE) / (1 + round.astype(jnp.float32)))
    base = Simulation(
        task,
        FedAvg().build(),
        uplink.chain(*stages, reduce=uplink.mean()),
        Everyone().build(Population(data.sizes)),
        local,
        data,
    )
    return base._replace(**changes)


def adam() -> Local:
    return Local(1, 4, optax.adam, lambda round: jnp.float32(0.01))


CASES: dict[str, Callable[[], Simulation]] = {
    "resident": lambda: simulation(classifier(), images()),
    "procedural, Adam, cohort of 5": lambda: simulation(
        classifier(augment=Augment(flip=0.5)), procedural(), local=adam(), sample=Uniform(5).build(Population(SIZES))
    ),
    "BatchNorm averaged": lambda: simulation(classifier(norm="batch"), images()),
    "BatchNorm local": lambda: simulation(classifier(norm="batch", statistics="local"), images(), local=adam()),
    "two phases, a player at home": lambda: simulation(two_players(), images()),
    "cohort of 4, a player at home": lambda: simulation(
        two_players(), images(), local=adam(), sample=Uniform(4).build(Population(SIZES))
    ),
    "uniform weights, clipped": lambda: simulation(
        classifier(), images(), (uplink.uniformly(), uplink.clip(0.05)), algorithm=FedAvg(0.5).build()
    ),
    "fusion, heads at home": fusion,
    "cyclegan": cyclegan,
    "pix2pix": pix2pix,
}


def plain_round(sim: Simulation, state: State, root: jax.Array) -> State:
    """One round as a researcher would first write it: a loop over clients, a loop over steps, a mean."""
    cohort = sim.sample(keys.purpose(jax.random.fold_in(root, state.round), keys.Purpose.SAMPLE), state.round)
    updates, clients = [], state.clients
    for place, client in enumerate(np.asarray(cohort.client)):
        if not cohort.present[place] or sim.data.sizes[client] == 0:
            continue
        kept, server = trees.take(clients, client), sim.algorithm.broadcast(state.server, cohort.late[place])
        start = Start(trees.join(server.model, kept.model), server, kept.state)
        model, steps, noted = plain_client(sim, state, start, int(client), root)
        shared, rest = trees.split(sim.task.shared(model), model)
        examples, rate = jnp.float32(sim.data.sizes[client]), sim.local.schedule(state.round)
        result = LocalResult(shared, jnp.int32(steps), examples, rate, cohort.late[place], cohort.times[place], noted)
        update, own = sim.algorithm.finish(server, kept.state, result)
        update = sim.uplink.client(update, kept.uplink, root)[0]
        updates.append(update._replace(weight=update.weight * cohort.times[place]))
        clients = trees.put(clients, client, kept._replace(model=rest, state=own, rounds=kept.rounds + 1))
    total = sum(float(update.weight) for update in updates)
    mean = trees.zeros_like(updates[0].delta)
    for update in updates:
        mean = trees.add(mean, trees.scale(float(update.weight) / total, update.delta))
    share = total / sum(float(sim.uplink.client(uplink.Update((), jnp.float32(n)), ((),) * 9, root)[0].weight)
                        for n in sim.data.sizes)  # fmt: skip
    aggregate = uplink.Aggregate(mean, jnp.float32(total), jnp.float32(len(updates)), jnp.float32(share))
    server = sim.algorithm.server(state.server, aggregate)
    return State(state.round + 1, server, state.uplink, clients)


def plain_client(
    sim: Simulation, state: State, start: Start, client: int, root: jax.Array, most: int = 10**9
) -> tuple[Model, int, object]:
    """Epochs over one client's examples, `most` steps of them, each phase with its own optimiser.

    Gives model, steps, what was noted.
    """
    size, batch_size, model = int(sim.data.sizes[client]), sim.local.batch, start.model
    optimizer = sim.local.optimizer(sim.local.schedule(state.round))
    with jax.numpy_dtype_promotion("standard"):
        optimizers = [optimizer.init(trees.split(p.moves(model.params), model.params)[0]) for p in sim.task.phases]
    key = keys.client(root, state.round, jnp.int32(client))
    step, steps, noted = 0, sim.local.epochs * -(-size // batch_size), None
    for epoch in range(sim.local.epochs):
        order_key = jax.random.fold_in(keys.purpose(key, keys.Purpose.SHUFFLE), epoch)
        order = shuffled(order_key, jnp.arange(size, dtype=jnp.int32), jnp.int32(size))
        for first in range(0, min(size, (most - step) * batch_size), batch_size):
            chosen = order[first : first + batch_size]
            weight = (jnp.arange(batch_size) < len(chosen)).astype(jnp.float32)
            batch = sim.data.read(sim.data.store, jnp.int32(client), jnp.pad(chosen, (0, batch_size - len(chosen))))
            step_key = jax.random.fold_in(keys.purpose(key, keys.Purpose.STEP), step)
            progress, batch = jnp.float32(step / steps), {**batch, "weight": weight}
            model, note = plain_step(sim, optimizer, optimizers, start, model, batch, progress, step_key)
            noted, step = note if noted is None else trees.add(noted, note), step + 1
    return model, step, noted


@functools.cache
def gradient(loss: Callable) -> Callable:
    return jax.jit(jax.grad(loss, has_aux=True))


def plain_step(
    sim: Simulation,
    optimizer,
    optimizers: list,
    start: Start,
    model: Model,
    batch: dict,
    progress: jax.Array,
    key: jax.Array,
) -> tuple[Model, object]:
    algorithm, held, total = sim.algorithm, sim.algorithm.hold(model.params, progress), trees.zeros_like(model.params)
    for number, phase in enumerate(sim.task.phases):
        mask, before = phase.moves(model.params), model
        grads, (carry, _) = gradient(phase.loss)(model.params, model.carry, batch, jax.random.fold_in(key, number))
        grads = jax.tree.map(lambda moves, g: g if moves else jnp.zeros_like(g), mask, grads)
        total = trees.add(total, grads)
        changed = algorithm.gradient(grads, model.params, start.model.params, start.server, start.state)
        changed = jax.tree.map(lambda hold, g: jnp.zeros_like(g) if hold else g, held, changed)
        moving = trees.split(mask, model.params)
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizers[number] = optimizer.update(trees.split(mask, changed)[0], optimizers[number], moving[0])
        model = Model(trees.join(optax.apply_updates(moving[0], updates), moving[1]), carry)
        stays = lambda hold, old, new: old if hold else new  # noqa: E731
        model = model._replace(params=jax.tree.map(stays, held, before.params, model.params))
    return model, algorithm.note(total, batch["weight"].sum(), progress)
