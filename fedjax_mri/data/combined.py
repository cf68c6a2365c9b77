"""Several sources as one: each hospital has the examples of all, and one model learns the classes of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import resident
from fedjax_mri.data.contract import (
    PATIENT,
    VALIDATION,
    ClientData,
    Examples,
    Federation,
    Source,
    Table,
    Test,
    several_of_a_patient,
    unchanged,
)
from fedjax_mri.data.merge import positions_in, relabelled, relabelled_tests
from fedjax_mri.data.precomputed import precomputed

Member = tuple[int, int]  # a source, and a client of it


@dataclass(frozen=True)
class CombinedSources:
    """Hospital k holds what client k of every source holds; a class is named after its source, "skin: nv".

    Images must have the same size; grey ones are repeated over the channels. Examples that are computed are computed
    once and kept. Test sets of the same name are combined as well, and each source's first is there by itself.
    """

    sources: tuple[Source, ...]
    names: tuple[str, ...]  # of the sources
    channels: int = 3

    def build(self, seed: int) -> Federation:
        """Returns the combined federation. Raises UserError where sources differ in clients or image size."""
        parts = [source.build(seed) for source in self._checked()]
        counts = {name: len(part.labels) for name, part in zip(self.names, parts)}
        if len(set(counts.values())) > 1:
            raise UserError(f"data.sources: clients differ, {counts}; give every source the same number")
        classes = tuple(one for name, part in zip(self.names, parts) for one in prefixed_classes(name, part.classes))
        places = [positions_in(classes, prefixed_classes(name, part.classes)) for name, part in zip(self.names, parts)]
        train = [fetchable(relabelled(part.train, place)) for part, place in zip(parts, places)]
        tests = [relabelled_tests(part.tests, place) for part, place in zip(parts, places)]
        everywhere = [[(source, client) for source in range(len(parts))] for client in range(len(parts[0].labels))]
        return Federation(
            combine_clients(train, everywhere, self.channels),
            self._tests(tests),
            classes,
            np.concatenate([part.labels for part in parts], 1),
            synthetic=any(part.synthetic for part in parts),
            tables=self._tables([part.tables for part in parts]),
            warnings=tuple(f"{name}: {one}" for name, part in zip(self.names, parts) for one in part.warnings),
            groups={f"{name}: {one}": of for name, part in zip(self.names, parts) for one, of in part.groups.items()},
            image=(*resident.empty(train[0])["image"].shape[1:-1], self.channels),
            pictures=all(part.pictures for part in parts),
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
        """Returns the sources' test sets, joined by name.

        Raises UserError where the model knows no class of a source.
        """
        tests, tables = [], []
        for name, source in zip(self.names, self._checked()):
            own = tuple(one.removeprefix(f"{name}: ") for one in classes if one.startswith(f"{name}: "))
            if not own:
                raise UserError(f"data.names: this model knows no class of {name}, only {', '.join(classes)}")
            found, of_source = source.evaluation(own, seed)
            tests.append(relabelled_tests(found, positions_in(classes, prefixed_classes(name, own))))
            tables.append(of_source)
        return self._tests(tests), self._tables(tables)

    def _checked(self) -> tuple[Source, ...]:
        if not self.sources or len(self.names) != len(self.sources) or len(set(self.names)) < len(self.names):
            raise UserError(f"data.names={self.names}: give each of {len(self.sources)} sources a name of its own")
        return self.sources

    def _tests(self, several: Sequence[Mapping[str, Test]]) -> dict[str, Test]:
        """Returns the combined test sets, then each source's first one by itself, under its name.

        The validation set comes last.
        """
        names = dict.fromkeys(name for tests in several for name in tests)
        combined = {name: self._side_by_side([tests[name] for tests in several if name in tests]) for name in names}
        validation = {name: combined.pop(name) for name in [VALIDATION] if name in combined}
        firsts = [
            (f"{name}: {first}", tests[first]) for name, tests in zip(self.names, several) for first in [*tests][:1]
        ]
        return {**combined, **{name: self._side_by_side([test]) for name, test in firsts}, **validation}

    def _side_by_side(self, tests: Sequence[Test]) -> Test:
        """Returns one test set with the clients of several, one after another."""
        members = [[(source, client)] for source, test in enumerate(tests) for client in range(len(test.owner))]
        owner = np.concatenate([test.owner for test in tests])
        return Test(combine_clients([test.data for test in tests], members, self.channels), owner)

    def _tables(self, several: Sequence[tuple[Table, ...]]) -> tuple[Table, ...]:
        pairs = [(name, table) for name, tables in zip(self.names, several) for table in tables]
        return tuple(table._replace(title=f"{name}: {table.title}") for name, table in pairs)


def prefixed_classes(source: str, classes: Sequence[str]) -> list[str]:
    """Returns the names of a source's classes among those of all sources."""
    return [f"{source}: {one}" for one in classes]


def fetchable(data: ClientData) -> ClientData:
    """Returns client data that can be fetched, computed once where need be.

    Raises UserError on data that rounds change.
    """
    if data.shift is not unchanged:
        raise UserError(
            "data.sources: a source whose training examples change with the round cannot be combined; combine first"
        )
    return data if data.fetch is not None else precomputed(data)


def combine_clients(several: Sequence[ClientData], members: Sequence[Sequence[Member]], channels: int) -> ClientData:
    """Returns client data whose client k has the examples of members[k], one member after another; fetched when needed.

    Raises UserError where images differ in size.
    """
    kept = [fetchable(data) for data in several]
    shapes = {resident.empty(data)["image"].shape[1:-1] for data in kept}
    if len(shapes) > 1:
        raise UserError(f"data.sources: images are of {sorted(shapes)} pixels; give every source the same size")
    sizes = np.array([sum(kept[source].sizes[client] for source, client in of) for of in members], np.int32)
    data = ClientData(sizes, None, resident.read, patients=patients_of(kept, members))
    numbered = several_of_a_patient(data)

    def fetch(client: int) -> Examples:
        pieces = [kept[source].fetch(one) for source, one in members[client]]  # type: ignore[misc]
        images = [with_channels(piece["image"], channels) for piece in pieces]
        found = {"image": np.concatenate(images), "label": np.concatenate([piece["label"] for piece in pieces])}
        if numbered:
            found[PATIENT] = numbered_on([piece.get(PATIENT, np.arange(len(piece["label"]))) for piece in pieces])
        return found

    return data._replace(fetch=fetch)


def patients_of(kept: Sequence[ClientData], members: Sequence[Sequence[Member]]) -> np.ndarray | None:
    """Returns the patients int32 [N] of clients with the examples of those members.

    It is None where a source does not know its own.
    """
    if any(data.patients is None for data in kept):
        return None
    return np.array([sum(kept[source].patients[client] for source, client in of) for of in members], np.int32)  # type: ignore[index]


def numbered_on(several: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the numbers of patients, each from 0, as one list.

    In it those of a member follow those of the member before.
    """
    counts = [int(numbers.max(initial=-1)) + 1 for numbers in several]
    starts = np.cumsum([0, *counts[:-1]])
    return np.concatenate([numbers + start for numbers, start in zip(several, starts)]).astype(np.int32)


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Returns images [n, H, W, channels] in bytes, from grey ones or such.

    Raises UserError on another number of channels.
    """
    if images.shape[-1] not in (1, channels):
        raise UserError(
            f"data.channels={channels}: images have {images.shape[-1]} channels; give as many, or grey ones"
        )
    white = np.iinfo(images.dtype).max if images.dtype.kind in "iu" else 1.0
    pixels = images if white == 255 else np.rint(images * np.float32(255 / white)).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:-1], channels))
