"""The one type in which every source hands its examples to the engine."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

VALIDATION = "validation"  # name of the test set by which models, stopping times and thresholds are chosen
PATIENT = "patient"  # a field of batches: the number of an example's patient among those of its client, int32 [B]
UNPAIRED = "unpaired"  # a field of test batches whose CT and MR are of different patients

Batch = dict[str, jax.Array]  # field -> [B, ...]; the engine adds "weight" [B], 0 for padding
Examples = dict[str, np.ndarray]  # field -> [size, ...], one client's


# (what was read [B, ...], client int32 [], its examples int32 [B], round int32 []) -> what the client sees of it then
Shift = Callable[[Batch, jax.Array, jax.Array, jax.Array], Batch]


def unchanged(batch: Batch, client: jax.Array, indices: jax.Array, round: jax.Array) -> Batch:
    """Returns the batch as it was read."""
    return batch


# (examples int32 [B] that a step draws, client int32 [], its examples int32 []) -> those that are read in their place
Pick = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def as_drawn(indices: jax.Array, client: jax.Array, size: jax.Array) -> jax.Array:
    """Returns the examples that were drawn."""
    return indices


class ClientData(NamedTuple):
    """Examples of N clients, readable inside a compiled program.

    `read(store, client, indices)` takes a scalar client in 0..N-1 and indices [B] in 0..sizes[client]-1 and gives a
    `Batch`. Indices past the end may be asked for (padding): any finite example will do, its weight is 0.
    With `fetch`, `resident.pack` makes a store for `read` of any few clients: that is how examples are divided among
    devices, or brought there a cohort at a time. Sources hand over NumPy arrays; the plan says where they go.
    `pick` and `shift` act on which examples a client reads to train, and on what they hold, which may change with the
    round.
    Where a patient has several examples, batches have the field PATIENT. Its numbers start at 0 and rise by 1 from one
    patient to the next, whose examples lie together.
    """

    sizes: np.ndarray  # int32 [N], examples per client
    store: Any  # arrays that `read` needs, of all clients; () for procedural data, None where they are too many to hold
    read: Callable[[Any, jax.Array, jax.Array], Batch]
    fetch: Callable[[int], Examples] | None = None  # client -> all its examples, on the host; None: not kept by client
    shift: Shift = unchanged
    # int32 [N], patients per client; equal to `sizes`: each example is of another one; None: nobody knows whose each is
    patients: np.ndarray | None = None
    pick: Pick = as_drawn


def several_of_a_patient(data: ClientData) -> bool:
    """Returns whether some patient is known to have several examples, so that batches have the field PATIENT."""
    return data.patients is not None and bool(np.any(data.patients != data.sizes))


class Test(NamedTuple):
    """Unseen examples, and the training client that each of their M clients belongs to."""

    data: ClientData
    owner: np.ndarray  # int32 [M], training client, or -1 for a site that took no part in training


class Table(NamedTuple):
    """Something a source wants said in the report."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str = ""


class Federation(NamedTuple):
    """What a source builds: the hospitals that train, the data they are judged on, and what to say about both."""

    train: ClientData
    tests: Mapping[str, Test]  # name of the test set -> its examples; a set named VALIDATION comes last
    classes: tuple[str, ...]
    labels: np.ndarray  # int32 [N, C], examples per training client and class: the partition
    synthetic: bool = False  # said beside every figure made from it
    tables: tuple[Table, ...] = ()  # quarantined files, duplicates, leaks, sites
    warnings: tuple[str, ...] = ()  # one line each, printed when training starts and shown in the report
    groups: Mapping[str, np.ndarray] = MappingProxyType({})  # "field strength" -> str [N], each training client's
    images: tuple[str, ...] = ("image",)  # fields of a batch that hold images, all of one shape
    image: tuple[int, ...] | None = None  # that shape, [H, W, C] or [D, H, W, C], if known without tracing `read`
    # the same fields as in `DataDescription`:
    modalities: tuple[str, ...] = ()
    spacing: tuple[float, ...] = ()
    window: tuple[float, float] | None = None
    pictures: bool = False


class DataDescription(NamedTuple):
    """What is known of a federation's data without the data: enough to build its task and to restore its model."""

    image: tuple[int, ...]  # shape of one image as it is read: [H, W, C], or [D, H, W, C] for a volume
    classes: tuple[str, ...]
    clients: int  # clients that train
    labels: tuple[int, ...] = ()  # training examples of each class; () where they are not known
    modalities: tuple[str, ...] = ()  # "ct" or "mr", of each channel or each field of images; () where not known
    spacing: tuple[float, ...] = ()  # mm from voxel to voxel along each spatial axis; () where not known
    window: tuple[float, float] | None = None  # HU that a CT shows as 0 and 1; None: nobody knows its HU
    pictures: bool = False  # whether images were decoded from picture files and padded to squares


class Source(Protocol):
    """A frozen dataclass of settings that can build its federation."""

    def build(self, seed: int) -> Federation:
        """Returns all clients and test sets; the same seed gives the same examples.

        Raises UserError on bad settings.
        """
        ...

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns test sets alone, labelled by the `classes` of a saved model.

        Raises UserError on a class it does not know.
        """
        ...
