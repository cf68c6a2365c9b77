"""The kernels of a compiled program: how often each runs, and the operations and bytes that it takes."""

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from fedjax_mri.compile.hlo import Array, Computation, Operation, Program

FREE = {
    "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "partition-id", "replica-id",
    "opt-barrier", "async-update", "domain",
}  # fmt: skip
COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
SLICES = {"dynamic-slice", "slice", "gather"}
CALLS = {"call", "async-start"}
ENDED = "ended_clients"  # scope that the engine gives to what follows a client's last step
LOOPS = {"rounds": "round", "lanes": "step"}  # scope that the engine gives to a loop -> part of the program in it


class Kernel(NamedTuple):
    """One operation of a compiled program that the device runs by itself."""

    part: str  # "segment", "round", "client" or "step": how often it runs
    times: int  # as often within its part
    name: str
    flops: float  # of products
    bytes: float  # read from and written to the device's main memory
    dtype: str  # of the factors of its products; empty if it has none
    cycles: float  # that the compiler expects it to take; 0 if it does not say
    launched: bool  # False: a copy that runs beside other kernels


class Collective(NamedTuple):
    """One operation in which devices exchange data, such as a sum over all of them."""

    part: str
    times: int
    kind: str
    bytes: float  # of its result on each device


class Wait(NamedTuple):
    """A loop of unknown length, whose condition the host of a GPU has to read. Branches are decided on the device."""

    part: str
    times: int


Event = Kernel | Collective | Wait


def events(program: Program, part: str = "segment") -> list[Event]:
    """Returns all that a program does, in order; `part` is what the whole program is, "segment" or "round".

    A loop whose length the compiler does not know counts as one pass.
    """
    return list(_events(program, program.entry, part, 1))


def _events(program: Program, name: str, part: str, times: int) -> Iterator[Event]:
    computation = program.computations[name]
    for operation in computation.values():
        kind = operation.kind.removesuffix("-start") if "async" not in operation.kind else operation.kind
        if operation.kind in FREE or operation.kind.endswith("-done") or _is_scalar_of_tpu(operation):
            continue
        if kind in COLLECTIVES:
            yield Collective(part, times, kind, _exchanged_bytes(computation, operation))
        elif kind == "while":
            yield from _loop(program, operation, part, times)
        elif kind == "conditional":
            yield from _branch(program, operation, part, times)
        elif kind in CALLS:
            for called in operation.called():
                yield from _events(program, called, part, times)
        else:
            yield kernel(program, computation, operation, part, times)


def _loop(program: Program, operation: Operation, part: str, times: int) -> Iterator[Event]:
    """Yields the events of a loop. The engine's loops over rounds and over local steps are parts of their own."""
    inner = LOOPS.get(operation.scope.removesuffix("/while").rpartition("/")[2])
    part, times = (inner, 1) if inner else (part, times * (operation.trips or 1))
    if operation.trips is None:
        yield Wait(part, times)
    yield from _events(program, operation.attribute("body").lstrip("%"), part, times)


def _branch(program: Program, operation: Operation, part: str, times: int) -> Iterator[Event]:
    """Yields the events of the branch that moves most bytes. The engine's branch of clients that are done is a part."""
    inner = "client" if part == "step" and ENDED in operation.scope else part
    branches = [list(_events(program, called, inner, times)) for called in operation.called()]

    def moved(branch: list[Event]) -> float:
        return sum(event.times * event.bytes for event in branch if isinstance(event, Kernel))

    yield from max(branches, key=moved, default=[])


def _is_scalar_of_tpu(operation: Operation) -> bool:
    """Returns whether an operation computes scalars on a TPU, whose scalar unit does so beside the kernels."""
    scalars = all(prod(array.shape) == 1 and "T(" in array.layout for array in operation.results)
    return bool(operation.results) and scalars and operation.kind not in ("while", "conditional", *COLLECTIVES)


def _exchanged_bytes(computation: Computation, operation: Operation) -> float:
    """Returns the bytes of an exchange's operands or results, whichever are more."""
    operands = [array for name in operation.operands for array in computation[name].results]
    results = list(operation.results)
    if operation.kind.endswith("-start") and "all-reduce" not in operation.kind:  # (operands, results, and counters)
        results = results[len(operands) : 2 * len(operands)]
    return max(sum(array.payload for array in arrays) for arrays in (operands, results))


def kernel(program: Program, computation: Computation, operation: Operation, part: str, times: int) -> Kernel:
    """Returns what one operation costs."""
    products = list(_products(program, computation, operation))
    flops = sum(count for count, _ in products)
    dtype = products[0][1] if products else ""
    moved = _traffic(program, computation, operation)
    launched = operation.kind not in ("copy-start", "slice-start")
    return Kernel(part, times, operation.name, flops, moved, dtype, operation.cycles, launched)


def _products(program: Program, computation: Computation, operation: Operation) -> Iterator[tuple[float, str]]:
    """Yields operations and type of factors of each product in an operation, or in the computation that it calls."""
    if operation.kind == "fusion":
        for name in operation.called():
            for inner in program.computations[name].values():
                yield from _products(program, program.computations[name], inner)
        return
    flops = product_flops(operation, _operands(computation, operation))
    if flops:
        yield flops, _operands(computation, operation)[0].dtype


def product_flops(operation: Operation, operands: list[Array]) -> float:
    """Returns the operations of a matrix product or convolution; 0 for any other operation."""
    target = operation.attribute("custom_call_target").strip('"')
    if operation.kind == "dot" or "matmul" in target or "gemm" in target:
        return _dot_flops(operation, operands)
    if operation.kind == "convolution":
        return _convolution_flops(operation, operands)
    return _cudnn_flops(operation, target, operands) if "__cudnn$conv" in target else 0.0


def _dot_flops(operation: Operation, operands: list[Array]) -> float:
    """Returns 2 M N K of a product; a library's call names its dimensions in another way."""
    of_library = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', operation.attributes)
    axes = of_library[1].replace('"', "") if of_library else operation.attribute("lhs_contracting_dims")
    contracted = [operands[0].shape[int(axis)] for axis in axes.split(",") if axis]
    return 2.0 * prod(operation.results[0].shape) * prod(contracted)


def _convolution_flops(operation: Operation, operands: list[Array]) -> float:
    """Returns the operations of a convolution without those on padding, as XLA's own count does."""
    image, kernel, result = operation.attribute("dim_labels").replace("->", "_").split("_")
    window = dict(re.findall(r"(\w+)=([\w\-x]+)", operation.attribute("window")))
    positions = 1
    for number, axis in enumerate(sorted(set(image) - set("bf"))):
        sides = (operands[0].shape[image.index(axis)], operation.results[0].shape[result.index(axis)])
        positions *= _valid_taps(*sides, operands[1].shape[kernel.index(axis)], window, number)
    shape = dict(zip(result, operation.results[0].shape))
    return 2.0 * positions * shape["b"] * shape["f"] * operands[1].shape[kernel.index("i")]


def _valid_taps(side: int, result: int, taps: int, window: dict[str, str], number: int) -> int:
    """Returns at how many of all output positions and taps along one axis the convolution reads a value."""

    def setting(name: str, default: str) -> str:
        return window[name].split("x")[number] if name in window else default

    stride, spread, dilation = (int(setting(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    before = int(setting("pad", "0_0").split("_")[0])
    places = (p * stride - before + tap * dilation for p in range(result) for tap in range(taps))
    return sum(place >= 0 and place % spread == 0 and place // spread < side for place in places)


def _cudnn_flops(operation: Operation, target: str, operands: list[Array]) -> float:
    """Returns the operations of a call of cuDNN, those on padding included."""
    kernel_labels = operation.attribute("dim_labels").replace("->", "_").split("_")[1]
    result, (first, second) = operation.results[0], operands[:2]
    if "BackwardFilter" in target:
        kernel, output = result, second
    else:
        kernel, output = second, first if "BackwardInput" in target else result
    sides = [side for label, side in zip(kernel_labels, kernel.shape) if label != "o"]
    return 2.0 * prod(output.shape) * prod(sides)


def _operands(computation: Computation, operation: Operation) -> list[Array]:
    """Returns the types of the operands; of a tuple, its first array."""
    return [computation[name].results[0] for name in operation.operands if computation[name].results]


def _traffic(program: Program, computation: Computation, operation: Operation) -> float:
    """Returns the bytes that an operation reads and writes; of what it slices, those of the slice."""
    # A call of a library gives the memory that it worked in as a last result.
    results = operation.results[:1] if operation.kind == "custom-call" else operation.results
    written = sum(array.bytes for array in results)
    if operation.kind == "copy-start":  # from one memory to another: the results are source and target
        return max(array.bytes for array in operation.results[:2])
    if operation.kind in SLICES or operation.kind == "slice-start":
        return 2 * min((array.bytes for array in operation.results if array.bytes), default=0.0)
    if operation.kind == "dynamic-update-slice":
        return 2 * _operands(computation, operation)[1].bytes
    called = operation.called() if operation.kind == "fusion" else []
    if not called:
        return written + sum(array.bytes for name in operation.operands for array in computation[name].results)
    return _fusion_traffic(program.computations[called[0]], computation, operation)


def _fusion_traffic(inner: Computation, computation: Computation, operation: Operation) -> float:
    """Returns the bytes that a fusion reads and writes."""
    users: dict[str, list[Operation]] = {}
    for one in inner.values():
        for name in one.operands:
            users.setdefault(name, []).append(one)
    total = 0.0
    for one in inner.values():
        if one.kind == "parameter":
            source = computation[operation.operands[int(one.argument)]]
            total += _read_bytes(one, users, sum(array.bytes for array in source.results))
    return total + _written_bytes(inner, operation)


def _read_bytes(parameter: Operation, users: dict[str, list[Operation]], whole: float) -> float:
    """Returns the bytes that a fusion reads of a parameter: of the slices alone, if it is only sliced."""
    name, uses = parameter.name, users.get(parameter.name, [])
    while len(uses) == 1 and uses[0].kind in ("bitcast", "copy", "convert", "reshape") and uses[0].name in users:
        name, uses = uses[0].name, users[uses[0].name]
    # What a slice is taken of, or put into, is an operation's first operand. What is put into is not read.
    if not all(use.kind in (*SLICES, "dynamic-update-slice") and use.operands.index(name) == 0 for use in uses):
        return whole
    width = parameter.results[0].bytes / max(prod(parameter.results[0].shape), 1)
    return min(whole, width * sum(prod(use.results[0].shape) for use in uses if use.kind in SLICES))


def _written_bytes(inner: Computation, operation: Operation) -> float:
    """Returns the bytes that a fusion writes: where it updates a slice in place, those of the slice."""
    root = list(inner.values())[-1]
    ends = [inner[name] for name in root.operands] if root.kind == "tuple" else [root]
    total = 0.0
    for end, array in zip(ends, operation.results):
        while end.kind == "bitcast" and end.operands:
            end = inner[end.operands[0]]
        if end.kind == "dynamic-update-slice":
            update = inner[end.operands[1]].results[0]
            total += array.bytes * prod(update.shape) / max(prod(array.shape), 1)
        else:
            total += array.bytes
    return total
