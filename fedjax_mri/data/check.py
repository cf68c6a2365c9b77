"""What a source hands over is checked here, once: that it is a federation, and that its examples are what a task reads.

Arrays in memory are looked at in full, examples that are fetched when they are. Of examples that are computed a few
are, as only the compiled program has them all.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import dotted, programs
from fedjax_mri.core.building import article, build
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import resident
from fedjax_mri.data.contract import (
    PATIENT,
    ClientData,
    Examples,
    Federation,
    Source,
    Table,
    Test,
    several_of_a_patient,
)

# What a task reads in a field: "class" labels 0 to C-1; "grey" integers, the largest of their type is white, or floats
# of which 1 is; "unit" floats of which 1 is white; "hu" Hounsfield units; "any" finite numbers.
Holds = Literal["class", "grey", "unit", "hu", "any"]
Reads = Mapping[str, Holds]

WITHOUT_WINDOW = "give HU as int16 or float32, or set task.window to None and give floats from 0 to 1"
LARGEST = 2.0  # of floats of which 1 is white; some room for what interpolation adds
STANDARDISED = 100.0  # no image that was standardised has a value farther from 0
BRIGHT = 20.0  # nor do several images without any value below 0 have a larger one
CLIENTS, EXAMPLES = 2, 8  # of computed data, so many examples of so many clients are looked at


def build_source(source: Source, seed: int) -> Federation:
    """Returns the federation of a source. Raises UserError where it is none, or its parts do not fit each other."""
    name, federation = type(source).__name__, build(source, Federation, seed)
    require(
        isinstance(federation.train, ClientData),
        name,
        f"train is {article(type(federation.train))}; give a ClientData",
    )
    check_clients(f"{name}: train", federation.train)
    check_patients(f"{name}: train", federation.train)
    require(int(federation.train.sizes.sum()) > 0, name, "no client has an example; give at least one of them data")
    check_classes(name, federation)
    check_tests(name, federation.tests, len(federation.train.sizes))
    for group, of_clients in federation.groups.items():
        require(len(of_clients) == len(federation.train.sizes), name, f"groups {group!r}: give one for each client")
    check_shapes(name, federation)
    return federation


def evaluation(source: Source, classes: tuple[str, ...], seed: int) -> tuple[Mapping[str, Test], tuple[Table, ...]]:
    """Returns the test sets of a source for a model that knows `classes`.

    Raises UserError as `build_source` does.
    """
    name = type(source).__name__
    require(
        callable(getattr(source, "evaluation", None)),
        name,
        "has no `evaluation`, which gives its test sets; data/contract.py says how",
    )
    tests, tables = source.evaluation(classes, seed)
    check_tests(name, tests, None)
    return tests, tables


def check_clients(name: str, data: ClientData) -> None:
    """Raises UserError where the sizes of clients are no whole numbers, or not those of the arrays."""
    sizes = data.sizes
    whole = isinstance(sizes, np.ndarray) and sizes.ndim == 1 and np.issubdtype(sizes.dtype, np.integer)
    require(
        whole and bool((sizes >= 0).all()), name, f"sizes {sizes!r:.60}: give int32 [N], the examples of each client"
    )
    if not isinstance(data.store, resident.Resident):
        return
    for field, array in data.store.fields.items():
        rows = int((data.store.offset + data.store.size).max())
        require(len(array) >= rows, name, f"{field!r} has {len(array)} rows, the clients have {rows}")


def check_patients(name: str, data: ClientData) -> None:
    """Raises UserError where numbers of patients are not as `ClientData` says, as far as they are in memory."""
    patients, sizes = data.patients, data.sizes
    if patients is None:
        return
    fitting = patients.shape == sizes.shape and bool(np.all((patients <= sizes) & ((patients > 0) == (sizes > 0))))
    require(fitting, name, "patients must be int32 [N], from 1 to the examples of each client; 0 for one without any")
    if not several_of_a_patient(data) or not isinstance(data.store, resident.Resident):
        return
    require(PATIENT in data.store.fields, name, f"patients have several examples, but there is no field {PATIENT!r}")
    numbers = data.store.fields[PATIENT]
    for client, (start, size) in enumerate(zip(data.store.offset, sizes)):
        steps = np.diff(numbers[start : start + size], prepend=-1)
        one_by_one = size == 0 or (steps[0] == 1 and bool(np.isin(steps, (0, 1)).all()))
        there = one_by_one and (size == 0 or numbers[start + size - 1] + 1 == patients[client])
        require(
            there, name, f"{PATIENT!r} of client {client}: number its patients from 0, each one's examples in a row"
        )


def check_classes(name: str, federation: Federation) -> None:
    """Raises UserError where `labels` are no counts of each client and class, or not those of the examples."""
    labels, wanted = np.asarray(federation.labels), (len(federation.train.sizes), len(federation.classes))
    text = f"labels has the shape {list(labels.shape)}; give counts [clients, classes], here {list(wanted)}"
    require(labels.shape == wanted, name, text)
    check_class_names(name, federation.classes)
    counts = labels.dtype.kind in "iu" and bool((labels >= 0).all())
    require(counts, name, f"labels are {labels.dtype} from {np.min(labels, initial=0)}; give counts, int32 0 or more")


def check_class_names(name: str, classes: tuple[str, ...]) -> None:
    """Raises UserError on names of classes that differ in case alone, or that break a table or a line of text."""
    for one in classes:
        broken = "|" in one or not one.isprintable()
        require(not broken, name, f"the class {one!r} breaks tables; rename it, without | and line ends")
    twice = next((one for one in classes if classes.count(one) > 1), "")
    require(not twice, name, f"two classes have the name {twice!r}; rename one")
    folded = [one.casefold() for one in classes]
    alike = [one for one, plain in zip(classes, folded) if folded.count(plain) > 1]
    text = f"the classes {', '.join(map(repr, alike))} differ in case alone; write them alike, or rename one"
    require(not alike, name, text)


def check_tests(name: str, tests: Mapping[str, Test], clients: int | None) -> None:
    """Raises UserError where a test set holds nothing, or belongs to training clients that there are not."""
    for title, test in tests.items():
        require(
            isinstance(test, Test),
            name,
            f"test set {title!r} is {article(type(test))}; give Test(data, owner)",
        )
        check_clients(f"{name}: test set {title!r}", test.data)
        require(int(test.data.sizes.sum()) > 0, name, f"test set {title!r} has no example; fill it or leave it out")
        owner = np.asarray(test.owner)
        of_each = owner.shape == test.data.sizes.shape and owner.dtype.kind in "iu"
        require(of_each, name, f"test set {title!r}: owner must be int32 [M], one for each of its clients")
        last = np.iinfo(np.int32).max if clients is None else clients - 1
        there = int(owner.min()) >= -1 and int(owner.max()) <= last
        remedy = f"give a training client, 0 to {last}, or -1"
        require(there, name, f"test set {title!r}: owner {owner.min()} to {owner.max()}; {remedy}")


def check_shapes(name: str, federation: Federation) -> None:
    """Raises UserError where images in memory are no images, or those of a test set are of another shape."""
    there = {"train": federation.train, **{f"test set {title!r}": one.data for title, one in federation.tests.items()}}
    first: dict[str, tuple[int, ...]] = {}
    for part, data in there.items():
        fields = fields_in_memory(data)
        for field in federation.images if fields else ():
            require(field in fields, name, f"images are in {field!r}, {part} holds {', '.join(fields)}; set `images`")
            check_image(f"{name}: {part}", field, fields[field].shape[1:])
            same = first.setdefault(field, fields[field].shape[1:]) == fields[field].shape[1:]
            require(
                same, name, f"{field!r} is {shape(fields[field])} in {part}, {list(first[field])} before; make it one"
            )


def check_image(name: str, field: str, of_one: tuple[int, ...]) -> None:
    """Raises UserError where the shape of one example is not that of an image or a volume."""
    remedy = f"{field!r} of an example has the shape {list(of_one)}; give [H, W, C] or [D, H, W, C]"
    add = f": add an axis for the channel, {field}[..., None]" if len(of_one) == 2 else ""
    require(len(of_one) in (3, 4), name, remedy + add)


def fields_in_memory(data: ClientData) -> Mapping[str, Any]:
    """Returns arrays with the shapes and dtypes of what `read` gives, where it gives what is stored; else nothing."""
    if data.read is not resident.read:
        return {}
    return data.store.fields if data.store is not None else resident.empty(data)


def contents(federation: Federation, reads: Reads, name: str) -> Federation:
    """Returns a federation whose examples are what a task `reads`; those that are fetched are checked when they are.

    Raises UserError, naming the source, the field and its values. Computed examples are not looked at.
    """
    train = with_contents(f"{name}: train", federation.train, reads, federation.classes)
    return federation._replace(
        train=train, tests=tests_with_contents(federation.tests, reads, federation.classes, name)
    )


def tests_with_contents(
    tests: Mapping[str, Test], reads: Reads, classes: tuple[str, ...], name: str
) -> dict[str, Test]:
    """Returns test sets as `contents` does a federation."""
    return {
        title: test._replace(data=with_contents(f"{name}: test set {title!r}", test.data, reads, classes))
        for title, test in tests.items()
    }


def with_contents(name: str, data: ClientData, reads: Reads, classes: tuple[str, ...]) -> ClientData:
    """Returns client data whose examples in memory are what a task reads. Raises UserError where they are not."""
    fields = fields_in_memory(data)
    if not fields:
        return data
    check_fields(name, fields, reads, classes, stored=data.store is not None)
    if data.store is not None:
        return data
    fetch = data.fetch

    def checked(client: int) -> Examples:
        assert fetch is not None
        examples = fetch(client)
        check_fields(f"{name}, client {client}", examples, reads, classes)
        return examples

    return data._replace(fetch=checked)


def computed_by_users(federation: Federation, reads: Reads, source: Source) -> None:
    """Raises UserError as `computed` does, where a source is a user's: what this package's compute is tested."""
    if not is_of_this_package(source):
        computed(federation, reads, type(source).__name__)


def is_of_this_package(source: Any) -> bool:
    """Returns whether a source and all settings within it are this package's."""
    inner = [one for one in dotted.children(source).values() if dotted.is_section(one)]
    own = isinstance(source, tuple) or type(source).__module__.startswith("fedjax_mri.")
    return own and all(map(is_of_this_package, inner))


def computed(federation: Federation, reads: Reads, name: str) -> None:
    """Raises UserError where a few of the examples that are computed, if any are, are not what a task `reads`."""
    there = {"train": federation.train, **{f"test set {title!r}": one.data for title, one in federation.tests.items()}}
    for part, data in there.items():
        if data.read is not resident.read:
            check_fields(f"{name}: {part}", few(data), reads, federation.classes)


def few(data: ClientData) -> Examples:
    """Returns a few examples of a few clients as `read` gives them, fields [n, ...]."""
    filled = np.flatnonzero(data.sizes)
    clients = filled[np.linspace(0, len(filled) - 1, min(CLIENTS, len(filled))).astype(int)]
    store, numbers = data.store, clients
    if data.fetch is not None:
        store, numbers = resident.pack([data.fetch(int(one)) for one in clients]), np.arange(len(clients))
    read, store = reader(data.read), jax.device_put(store)
    chosen = [np.linspace(0, data.sizes[one] - 1, EXAMPLES).astype(np.int32) for one in clients]
    batches = [jax.device_get(read(store, jnp.int32(one), jnp.asarray(some))) for one, some in zip(numbers, chosen)]
    return {field: np.concatenate([batch[field] for batch in batches]) for field in batches[0]}


@functools.cache  # one program for all that are read alike
def reader(read: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `read` as a program that takes little time to compile, as it is run a few times only."""
    options = programs.xla_options()
    return jax.jit(read, compiler_options=options and {**options, "xla_backend_optimization_level": 0})


def check_fields(
    name: str, fields: Mapping[str, Any], reads: Reads, classes: tuple[str, ...], stored: bool = True
) -> None:
    """Raises UserError where fields [n, ...] lack what a task reads, or hold something else.

    Their values are looked at only if they are `stored`.
    """
    for field, holds in reads.items():
        require(field in fields, name, f"the task reads {field!r}, the examples hold {', '.join(fields)}; add it")
        check_kind(name, field, fields[field], holds)
    for field, x in fields.items() if stored else ():
        if x.size and (np.issubdtype(x.dtype, np.floating) or reads.get(field) == "class"):
            check_values(name, field, x, reads.get(field, "any"), classes)


def check_kind(name: str, field: str, x: Any, holds: Holds) -> None:
    """Raises UserError where the dtype or the rank of a field cannot be what it holds."""
    if holds == "class":
        integer = np.issubdtype(x.dtype, np.integer) and len(x.shape) == 1
        require(integer, name, f"{field!r} is {x.dtype} {list(x.shape)}; give a label int32 for each example, [n]")
        return
    if holds == "any":
        return
    check_image(name, field, x.shape[1:])
    if holds == "hu":
        require(x.dtype != np.uint8, name, f"{field!r} is uint8, which holds no HU; {WITHOUT_WINDOW}")
    if holds == "unit":
        floats = np.issubdtype(x.dtype, np.floating)
        require(floats, name, f"{field!r} is {x.dtype}; give floats from 0 to 1 (of uint8: divide by 255)")


def check_values(name: str, field: str, x: Any, holds: Holds, classes: tuple[str, ...]) -> None:
    """Raises UserError where values [n, ...] are not finite, or not in the range of what they are said to hold."""
    low, high = float(x.min()), float(x.max())  # NaN where one value is
    pixels = int(np.prod(x.shape[1:-1]))  # one: not an image but a list of features
    said = f"{field!r} is {x.dtype} from {low:g} to {high:g}"
    if holds == "class":
        check_labels(name, field, int(low), int(high), classes)
    elif not (np.isfinite(low) and np.isfinite(high)):
        bad = ~np.isfinite(np.asarray(x, np.float32)).reshape(len(x), -1)
        rows = np.flatnonzero(bad.any(1))
        where = (
            f"{int(bad.sum())} values in {len(rows)} of {len(x)} examples are NaN or inf, first in example {rows[0]}"
        )
        require(False, name, f"{field!r}: {where}; replace them, or leave these examples out")
    elif holds == "hu":
        require(not (low >= 0 and 0 < high <= 1), name, f"{said}, which is no HU; {WITHOUT_WINDOW}")
    elif holds in ("grey", "unit") and pixels > 1:
        require(in_unit_range(low, high, holds), name, f"{said}, not from 0 to 1: {to_unit_range(low, high, holds)}")


def in_unit_range(low: float, high: float, holds: Holds) -> bool:
    """Returns whether floats may be grey levels of which 1 is white; "grey" ones may also have been standardised."""
    if holds == "unit":
        return low >= 1 - LARGEST and high <= LARGEST
    return high <= BRIGHT if low >= 0 else max(-low, high) <= STANDARDISED


def to_unit_range(low: float, high: float, holds: Holds) -> str:
    """Returns how to bring grey levels into 0 to 1."""
    if low < 0:
        return "scale them"
    if high > 255:
        return "divide by the largest grey level that there can be"
    return "divide by 255, or hand over uint8" if holds == "grey" else "divide by 255"


def check_labels(name: str, field: str, low: int, high: int, classes: tuple[str, ...]) -> None:
    """Raises UserError where labels from `low` to `high` are not numbers of classes."""
    count = len(classes)
    some = ", ".join(classes[:5]) + (", ..." if count > 5 else "")
    remedy = "subtract 1" if (low, high) == (1, count) else "number the classes from 0, or name them all in `classes`"
    text = f"{field!r} is from {low} to {high}; the {count} classes ({some}) are 0 to {count - 1}: {remedy}"
    require(low >= 0 and high < count, name, text)


def require(holds: bool, name: str, says: str) -> None:
    """Raises UserError, about a part of the data of that name, unless something holds."""
    if not holds:
        raise UserError(f"data: {name}: {says}")


def shape(x: Any) -> str:
    """Returns the shape of one of the examples [n, ...]."""
    return str(list(x.shape[1:]))
