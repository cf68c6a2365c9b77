"""Decoded images as examples of a federation, and what is said of them: what could not be read, copies, and leaks."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data import duplicates, labelled
from fedjax_mri.data.contract import VALIDATION, Federation, Table
from fedjax_mri.data.labelled import DataSplit, Labelled
from fedjax_mri.data.partition import Partition
from fedjax_mri.data.scans import LoadedImages

Words = Sequence[str]  # one for each source of images


def examples(
    name: str,
    read: LoadedImages,
    classes: tuple[str, ...],
    labels: Words,
    subsets: Words | None,
    sites: Words | None,
    patients: Words,
    remedy: str,
) -> Labelled:
    """Returns images as examples; copies of one another and images of a patient or a file stay together.

    "" of `patients` are those whom the files name, or unknown. Raises UserError, about data of that `name`, on a
    patient in two sites or splits, and on images of no site, for which there is a `remedy`.
    """
    images, source = read.images, read.images.source
    known = np.where(np.array(patients, str) == "", images.patients, np.array(patients, str))[source]
    if sites is not None and "" in sites:
        missing = read.names[list(sites).index("")]
        raise UserError(f"{name}: {list(sites).count('')} files name no site, such as {missing}: {remedy}")
    subsets, sites = (None if each is None else np.array(each)[source] for each in (subsets, sites))
    some = known != ""
    kept_in = {"site": sites, "split": subsets}
    labelled.check_patients(
        name, known[some], {what: each if each is None else each[some] for what, each in kept_in.items()}
    )
    together = (images.groups(), source, np.where(some, known, np.char.add("\0", source.astype(str))))
    numbers = np.array([classes.index(label) for label in labels], np.int32)[source]
    arrays = {"image": images.pixels, "label": numbers}
    groups, lost = labelled.merge_groups(*together), lost_by_class(read, labels)
    return Labelled(arrays, classes, groups, subsets, sites, patients=bool(some.all()), lost=lost)


def lost_by_class(read: LoadedImages, labels: Words) -> dict[str, str]:
    """Returns what to say of each class of which files could not be read: how many, and why the first could not."""
    reasons: dict[str, list[tuple[int, str]]] = {}
    for source, reason in read.images.quarantined:
        reasons.setdefault(labels[source], []).append((source, reason))
    total = Counter(labels)
    return {
        label: f" ({len(several)} of its {total[label]} files could not be read, such as "
        f"{read.names[several[0][0]]}: {several[0][1]})"
        for label, several in reasons.items()
    }


def federation(
    name: str,
    read: LoadedImages,
    examples: Labelled,
    shares: tuple[float, float],
    partition: Partition,
    seed: int,
    test: str,
    window: tuple[float, float] | None = None,
    lines: Sequence[str] = (),
    honest: str = "",
) -> Federation:
    """Returns the federation of examples, with a test set named `test`; `lines` are shown among its warnings.

    `window` is that in which CT is shown, in HU; `honest` says by which setting no test image has a twin in training.
    """
    divided = labelled.divide(name, examples, shares, partition, seed)
    leak = leak_table(read, examples, divided)
    tables = (*quarantine_table(read), duplicate_table(read, examples), *label_conflict_table(read, examples), leak)
    built = labelled.federation(examples, divided, test, tables)
    kinds = set(read.images.kinds[read.images.source].tolist())
    (modality,) = kinds if len(kinds) == 1 else ("",)
    return built._replace(
        warnings=(*lines, *image_warnings(read, leak, honest), *built.warnings),
        pictures=True,
        modalities=(modality,) * examples.arrays["image"].shape[-1] if modality else (),
        window=window if modality == "ct" else None,
    )


def file_warnings(read: LoadedImages) -> Iterator[str]:
    """Yields lines on what is odd about the files."""
    images, names = read.images, read.names
    yield from read.lines
    yield from (f"{count} of {len(names)} files: {note}" for note, count in images.notes.items())
    if images.quarantined:
        source, reason = images.quarantined[0]
        yield f"{len(images.quarantined)} of {len(names)} files could not be read, such as {names[source]}: {reason}"


def image_warnings(read: LoadedImages, leak: Table, honest: str) -> Iterator[str]:
    """Yields lines on what is odd about labelled images; `leak` is the table of `leak_table`."""
    yield from file_warnings(read)
    kinds, count = np.unique(read.images.kinds[np.unique(read.images.source)], return_counts=True)
    if len(kinds) > 1:
        several = ", ".join(f"{n} {kind or 'pictures'}" for kind, n in zip(kinds.tolist(), count.tolist()))
        yield f"files of several kinds ({several}): their grey values may tell the kind and not the class"
    _, tested, exact, near = leak.rows[-1]
    if exact + near:
        yield (
            f"{exact + near} of {tested} test images have a twin in training ({exact} exact, {near} near): "
            f"figures on this split flatter{honest}"
        )


def quarantine_table(read: LoadedImages) -> tuple[Table, ...]:
    """Returns a table of the sources that gave no image, where there are any."""
    rows = [(read.names[source], reason) for source, reason in read.images.quarantined]
    return (Table("Quarantined files", ("file", "reason"), rows),) if rows else ()


def duplicate_table(read: LoadedImages, examples: Labelled) -> Table:
    """Returns a table of how many images have duplicates or are of one patient, and in how large groups."""
    size = np.bincount(examples.split_groups)
    exact = np.unique(read.images.digests, return_counts=True)[1]
    largest = ", ".join(str(n) for n in np.sort(size[size > 1])[::-1][:5])
    rows = [
        ("images", len(examples.split_groups)),
        ("groups of duplicates", int((size > 1).sum())),
        ("images in these groups", int(size[size > 1].sum())),
        ("images with an exact copy", int(exact[exact > 1].sum())),
        ("largest groups", largest or "none"),
    ]
    note = "Exact by pixels, near by a perceptual hash within 4 bits, mirror images included; images of a patient."
    return Table("Duplicates", ("figure", "value"), rows, note)


def label_conflict_table(read: LoadedImages, examples: Labelled) -> tuple[Table, ...]:
    """Returns a table of groups of duplicates whose members carry different labels, where there are any."""
    groups, labels = examples.split_groups, examples.labels
    held = np.unique(np.stack([groups, labels]), axis=1)[0]  # once per label in it
    rows = []
    for group in np.flatnonzero(np.bincount(held) > 1):
        members = np.flatnonzero(groups == group)
        classes = ", ".join(examples.classes[label] for label in np.unique(labels[members]))
        rows.append((len(members), classes, read.names[read.images.source[members[0]]]))
    return (Table("Duplicates with different labels", ("images", "classes", "first"), rows),) if rows else ()


def leak_table(read: LoadedImages, examples: Labelled, divided: DataSplit) -> Table:
    """Returns a table of test images with a twin in training, by class.

    Images that validate but were drawn from training count as training.
    """
    test, learnt = divided.test.all, divided.train.all
    if examples.subsets is None or not (examples.subsets[divided.validation.all] == VALIDATION).all():
        learnt = np.concatenate([learnt, divided.validation.all])
    copied, near = duplicates.leak(examples.split_groups, read.images.digests, learnt, test)
    rows = [
        (name, int(own.sum()), int(copied[own].sum()), int(near[own].sum()))
        for name, own in ((name, examples.labels[test] == label) for label, name in enumerate(examples.classes))
    ]
    total = ("all", len(test), int(copied.sum()), int(near.sum()))
    return Table("Test images with a twin in training", ("class", "test images", "exact", "near"), [*rows, total])
