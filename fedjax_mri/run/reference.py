"""What a classifier's images look like to it, kept with its run, so that unlike images are recognised without its data.

Gaussians are fitted to training images. Distances of validation images, which fitted nothing, say how large a distance
is usual. Where the data have no validation set, every second image of one test set is a validation image, and the other
half is left for figures.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.data import resident
from fedjax_mri.data.augment import scaled
from fedjax_mri.data.contract import VALIDATION, Batch, ClientData, Test
from fedjax_mri.fed.engine import evaluate
from fedjax_mri.fed.engine.simulation import State, place_state, state_shapes
from fedjax_mri.metrics import appearance, outliers
from fedjax_mri.run.assemble import describe as describe_data
from fedjax_mri.run.checkpoint import Checkpoints
from fedjax_mri.run.prepare import Run
from fedjax_mri.run.record import Reference
from fedjax_mri.tasks.task import Carry, Classifier, Params, Task
from fedjax_mri.xai.layers import features

FITTED = 1000  # training images, at most
CLIENTS = 64  # that they come from, at most: those of a streamed data set are read anew
WIDTH = 512  # features, at most; more are projected
RIDGE = 1e-2  # of the Gaussians

Descriptions = dict[str, np.ndarray]  # kind -> [n, d]


def calibration_set(owners: Mapping[str, np.ndarray | None]) -> str:
    """Returns the name of the test set to calibrate by: the validation set where there is one.

    Else it is one of training sites where there is one, so that new sites stay unused. `owners` int [M] are each test
    set's training clients, -1 for other sites.
    """
    if VALIDATION in owners:
        return VALIDATION
    of_training_sites = [name for name, owner in owners.items() if owner is not None and (owner >= 0).all()]
    return (of_training_sites or list(owners))[0]


def is_validation(name: str, count: int) -> np.ndarray:
    """Returns bool [count]: which images of a test set calibrate; all of the validation set, of others every second."""
    return (np.arange(count) % 2 == 0) | (name == VALIDATION)


def describe(steps: Classifier, params: Params, carry: Carry, images: jax.Array) -> dict[str, jax.Array]:
    """Returns descriptions [B, d] of images [B, H, W, C] as read, by kind.

    Features are those that Grad-CAM finds, the last activations of each size, averaged over positions; a network
    without any has none.
    """
    maps = features(lambda x: steps.logits(params, carry, x), steps.preprocess(images))
    found = {"features": projected(jnp.concatenate([one.mean((1, 2)) for one in maps], 1))} if maps else {}
    shown = scaled(images)
    grey, outline = appearance.grey_values(shown), appearance.outline(shown)
    return {**found, "appearance": jnp.concatenate([grey, outline], 1), "grey values": grey, "outline": outline}


def projected(x: jax.Array) -> jax.Array:
    """Returns vectors [B, D] on at most WIDTH random directions, always the same ones."""
    if x.shape[1] <= WIDTH:
        return x
    directions = jax.random.normal(jax.random.key(0), (x.shape[1], WIDTH), jnp.float32) / WIDTH**0.5
    return jnp.matmul(x, directions, precision="highest")


def distances(reference: Reference, described: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns squared distances [n] of described images to the nearest class of the training images, by kind."""
    return {kind: outliers.mahalanobis(known, described[kind]) for kind, known in reference.gaussians.items()}


def build(run: Run, last: State) -> Reference | None:
    """Returns the reference of a trained run, whose last state is given; None where it does not classify single images.

    All processes of a run must call it.
    """
    steps, tests = run.sim.task.classifier, run.federation.tests
    if steps is None or len(describe_data(run.federation).image) != 3:
        return None
    name = calibration_set({name: one.owner for name, one in tests.items()})
    train, test = run.federation.train, tests[name].data
    validated = np.flatnonzero(is_validation(name, int(test.sizes.sum())))
    limit = FITTED if train.fetch is not None else min(FITTED, len(validated))  # procedural images take time to make
    chosen = spread_over_clients(train.sizes, limit), validated
    fitted, validation = described(run, steps, explained_state(run, last), [train, test], chosen)
    label, count = fitted.pop("label"), len(run.federation.classes)
    known = {
        # Classes differ in their features; what needs no network is described for all classes together.
        kind: outliers.gaussians(x, *((label, count) if kind == "features" else (np.zeros_like(label), 1)), RIDGE)
        for kind, x in fitted.items()
    }
    return Reference(known, distances(Reference(known, {}), validation))


def explained_state(run: Run, last: State) -> State:
    """Returns the state that `explain` takes: the best where that was kept, else the last."""
    if not (run.folder / "best").is_dir():
        return last
    return place_state(run.plan, Checkpoints(run.folder / "best").restore(state_shapes(run.sim)))


def spread_over_clients(sizes: np.ndarray, limit: int) -> np.ndarray:
    """Returns the places of at most `limit` examples, spread evenly over at most CLIENTS clients that have any."""
    some = np.flatnonzero(sizes)
    some = some[np.linspace(0, len(some) - 1, min(CLIENTS, len(some))).astype(int)]
    places = np.flatnonzero(np.isin(resident.positions(sizes)[0], some))
    return places[np.linspace(0, len(places) - 1, min(limit, len(places))).astype(int)]


def described(
    run: Run, steps: Classifier, state: State, several: list[ClientData], chosen: tuple[np.ndarray, ...]
) -> list[Descriptions]:
    """Returns descriptions, and "label" [n], of the chosen examples of each data set.

    They are made by the model that a site outside of training gets.

    All are given as many places, the last one repeated, so that data sets that are read alike share one program.
    """
    room = max(map(len, chosen))
    data = [example_set(one, np.pad(places, (0, room - len(places)), "edge")) for one, places in zip(several, chosen)]
    readers = {one.read: chosen_reader(one.read) for one in data}
    tests = {
        str(number): Test(one._replace(read=readers[one.read]), np.array([-1], np.int32))
        for number, one in enumerate(data)
    }
    on_tests = evaluate.build(describing(run.sim.task, steps), run.plan, tests, run.programs, "reference")
    found = on_tests(state)
    return [
        {kind: x[: len(places)] for kind, x in found[str(number)].kept.items()} for number, places in enumerate(chosen)
    ]


def describing(task: Task, steps: Classifier) -> Task:
    """Returns the task with descriptions in the place of its predictions, and without metrics."""

    def predict(params: Params, carry: Carry, batch: Batch) -> dict[str, jax.Array]:
        return {**describe(steps, params, carry, batch["image"]), "label": batch["label"]}

    return task._replace(predict=predict, evaluate=lambda *_: (), kept=lambda found, _: found)


def example_set(data: ClientData, places: np.ndarray) -> ClientData:
    """Returns the examples at some places as those of one client; its store is (store, client [n], index [n]).

    Only the clients that have some are read, where clients can be.
    """
    client, index = (one[places] for one in resident.positions(data.sizes))
    size = np.array([len(places)], np.int32)
    if data.fetch is None:
        return ClientData(size, (data.store, client, index), data.read)
    rows = [
        {name: field[index[client == number]] for name, field in data.fetch(int(number)).items()}
        for number in np.unique(client)
    ]
    whole = resident.pack([{name: np.concatenate([one[name] for one in rows]) for name in rows[0]}])
    return ClientData(size, (whole, np.zeros_like(client), np.arange(len(places), dtype=np.int32)), resident.read)


def chosen_reader(read: Callable[..., Batch]) -> Callable[..., Batch]:
    """Returns the `read` of an `example_set`."""

    def one(store: Any, client: jax.Array, index: jax.Array) -> Batch:
        return trees.take(read(store, client, index[None]), jnp.int32(0))

    def read_chosen(store: Any, _: jax.Array, indices: jax.Array) -> Batch:
        inner, client, index = store
        return jax.vmap(partial(one, inner))(jnp.take(client, indices), jnp.take(index, indices))

    return read_chosen
