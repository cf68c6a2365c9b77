"""Compiles programs, and keeps traced programs on disk for later runs.

Tracing a program in Python takes longer than finding the compiled program in XLA's own cache. So a traced program is
exported to a file whose name is a digest of everything that determines the program.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax import export

from fedjax_mri.core import devices, disk

Program = Callable[..., Any]

# Two threads trace no faster than one, and each would wait for the other.
TRACING = threading.Lock()


class ProgramCache(NamedTuple):
    """Where traced programs are kept. The files are code and are trusted, as those of XLA's own cache are."""

    folder: pathlib.Path
    name: str  # digest of all that the programs depend on, except their arguments
    say: Callable[[str], None]


class Shardings(NamedTuple):
    """How arguments and results of a program lie on the devices: shardings, each a prefix of a tree."""

    arguments: Any
    results: Any
    donated: tuple[int, ...] = ()  # arguments whose memory the program may use

    def jit(self, program: Program) -> Any:
        """Returns `program` as a jitted function with these shardings."""
        return jax.jit(program, donate_argnums=self.donated, in_shardings=self.arguments, out_shardings=self.results)


def xla_options() -> dict[str, Any] | None:
    """Returns compiler options for XLA on the devices that programs are compiled for; None for the defaults.

    What the user sets in XLA_FLAGS is left to them.
    """
    here = devices.current()
    options = cpu_options() if here.platform == "cpu" else gpu_options() if here.platform == "gpu" else {}
    set_by_user = {flag.lstrip("-").partition("=")[0] for flag in os.environ.get("XLA_FLAGS", "").split()}
    return {name: value for name, value in options.items() if name not in set_by_user} or None


def gpu_options() -> dict[str, Any]:
    """Returns compiler options for GPUs.

    Where there are several, sums over devices are to run beside other work. XLA finds the sizes of Triton's tiles by
    timing them on the device; without one it refuses such products.
    """
    here = devices.current()
    overlap = {"xla_gpu_enable_latency_hiding_scheduler": True} if len(here.every) > 1 else {}
    return overlap if here.present else {**overlap, "xla_gpu_enable_triton_gemm": False}


@functools.cache
def cpu_options() -> dict[str, Any]:
    """Returns compiler options for a CPU.

    There the time goes into library kernels and memory: a higher optimisation level makes programs no faster and
    doubles the time to compile them. XLA's newer fusion emitters vectorise some fusions badly: the gradient of a
    pooling after a normalisation takes ten times as long.
    """
    options = {"xla_backend_optimization_level": 1, "xla_cpu_prefer_vector_width": 512}
    emitters = {"xla_cpu_use_fusion_emitters": False}
    return {**options, **emitters} if has_options(emitters) else options


def has_options(options: dict[str, Any]) -> bool:
    """Returns whether this version of XLA has these options."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compile_program(
    program: Program, shardings: Shardings, args: tuple[Any, ...], cache: ProgramCache | None = None, label: str = ""
) -> Any:
    """Returns `program` compiled for arguments like `args`, which are arrays or their shapes.

    The traced program is read from `cache`, where it is kept under `label`, if an earlier run has traced it.
    """
    with TRACING:
        traced = program if cache is None else cached_or_traced(program, shardings, args, cache, label)
        lowered = shardings.jit(traced).lower(*args)
    return lowered.compile(xla_options())


def compile_when_called(
    program: Program, shardings: Shardings, cache: ProgramCache | None = None, label: str = ""
) -> Program:
    """Returns `program` as a function that compiles once for each new set of argument shapes, when it is called."""
    compiled = dict[str, Any]()

    def call(*args: Any) -> Any:
        name = describe_arguments(args)
        if name not in compiled:
            compiled[name] = compile_program(program, shardings, args, cache, label)
        return compiled[name](*args)

    return call


def describe_arguments(args: tuple[Any, ...]) -> str:
    """Returns tree structure, shapes and dtypes of arguments as text: what a program is compiled for."""
    return repr(jax.tree.map(jax.typeof, args))


def cached_or_traced(
    program: Program, shardings: Shardings, args: tuple[Any, ...], cache: ProgramCache, label: str
) -> Program:
    """Returns the traced `program` from `cache`, after adding it if it is missing or damaged.

    The program that is returned is always the one read back, so that the first run compiles the same code as later
    ones. A program that JAX cannot export is returned as it is.
    """
    name = hashlib.sha256(f"{cache.name} {label} {shardings} {describe_arguments(args)}".encode()).hexdigest()[:24]
    path = cache.folder / f"{name}.traced"
    content = read_checked(path, cache.say)
    if content is None:
        try:
            content = serialize(export.export(shardings.jit(program))(*args))
        except (ImportError, NotImplementedError, ValueError, AttributeError, pickle.PicklingError):
            return program
        disk.write_cache(path, hashlib.sha256(content).digest() + content)
    return deserialize(content, args)


def serialize(traced: export.Exported) -> bytes:
    """Returns a traced program as bytes. JAX serialises flat results only, so the tree of the results is stored too."""
    arguments, results = (tuple(0 for _ in side) for side in (traced.in_avals, traced.out_avals))
    plain = replace(traced, in_tree=jax.tree.structure((arguments, {})), out_tree=jax.tree.structure(results))
    return pickle.dumps((traced.out_tree, bytes(plain.serialize())))


def deserialize(content: bytes, args: tuple[Any, ...]) -> Program:
    """Returns the program that `serialize` turned into bytes, for arguments in a tree like `args`."""
    results, code = pickle.loads(content)
    plain = export.deserialize(bytearray(code))
    return replace(plain, in_tree=jax.tree.structure((args, {})), out_tree=results).call


def read_checked(path: pathlib.Path, say: Callable[[str], None]) -> bytes | None:
    """Returns the content of a file after its checksum; None, with one message, if the file is damaged."""
    with contextlib.suppress(OSError):
        whole = path.read_bytes()
        if hashlib.sha256(whole[32:]).digest() == whole[:32]:
            return whole[32:]
        say(f"{path}: damaged; the program is traced again")
    return None
