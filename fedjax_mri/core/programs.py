"""Compiled programs, and traced ones kept between runs: what a run has traced, the next one alike reads from disk.

Python takes longer to trace a program than XLA to find it among those it has compiled before. So a traced program is
exported, and all that decides it but its arguments is in the name of its file.
"""

import contextlib
import functools
import hashlib
import pathlib
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax import export

from fedjax_mri.core import disk

Program = Callable[..., Any]

# Two threads trace no faster than one, and each waits for the other.
ONE_AT_A_TIME = threading.Lock()


class ProgramCache(NamedTuple):
    """Where traced programs are kept. Files there are trusted as those of XLA's own cache are: they are code."""

    folder: pathlib.Path
    name: str  # of all that the programs depend on but their arguments
    say: Callable[[str], None]


class Shardings(NamedTuple):
    """Where the arguments and results of a program lie: shardings, a prefix of their trees."""

    arguments: Any
    results: Any
    consumed: tuple[int, ...] = ()  # arguments whose memory the program may use

    def jit(self, program: Program) -> Any:
        """`program`, to be compiled so."""
        return jax.jit(program, donate_argnums=self.consumed, in_shardings=self.arguments, out_shardings=self.results)


@functools.cache
def xla_options() -> dict[str, Any] | None:
    """Options for XLA. On a CPU the time goes into library kernels and memory: optimising the rest harder makes
    programs no faster, and compiling them takes twice as long. XLA's newer code for fusions vectorises some of them
    badly: the gradient of a pool behind a norm takes ten times as long."""
    if jax.default_backend() != "cpu":
        return None
    quick = {"xla_backend_optimization_level": 1, "xla_cpu_prefer_vector_width": 512}
    usual = {"xla_cpu_use_fusion_emitters": False}
    return {**quick, **usual} if has_options(usual) else quick


def has_options(options: dict[str, Any]) -> bool:
    """Whether this version of XLA has these options."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compile_program(
    program: Program, shardings: Shardings, args: tuple[Any, ...], cache: ProgramCache | None = None, what: str = ""
) -> Any:
    """`program(*args)` for arguments, arrays or their shapes, like these; traced by an earlier run where `cache` has
    it as `what`."""
    with ONE_AT_A_TIME:
        traced = program if cache is None else cached_or_traced(program, shardings, args, cache, what)
        lowered = shardings.jit(traced).lower(*args)
    return lowered.compile(xla_options())


def compile_when_called(
    program: Program, shardings: Shardings, cache: ProgramCache | None = None, what: str = ""
) -> Program:
    """`program`, compiled when it is called with arguments of new shapes."""
    ready = dict[str, Any]()

    def call(*args: Any) -> Any:
        name = describe_arguments(args)
        if name not in ready:
            ready[name] = compile_program(program, shardings, args, cache, what)
        return ready[name](*args)

    return call


def describe_arguments(args: tuple[Any, ...]) -> str:
    """Tree, shapes and types of arguments, in words: what a program is compiled for."""
    return repr(jax.tree.map(jax.typeof, args))


def cached_or_traced(
    program: Program, shardings: Shardings, args: tuple[Any, ...], cache: ProgramCache, what: str
) -> Program:
    """`program` as `cache` has it, put there before where it is missing or damaged; itself, where JAX cannot export
    it. A run that finds it there and one that does not compile the same code."""
    name = hashlib.sha256(f"{cache.name} {what} {shardings} {describe_arguments(args)}".encode()).hexdigest()[:24]
    path = cache.folder / f"{name}.traced"
    content = read_checked(path, cache.say)
    if content is None:
        try:
            content = serialize(export.export(shardings.jit(program))(*args))
        except (ImportError, NotImplementedError, ValueError, AttributeError, pickle.PicklingError):
            return program
        disk.remember(path, hashlib.sha256(content).digest() + content)
    return deserialize(content, args)


def serialize(traced: export.Exported) -> bytes:
    """JAX writes programs of flat arguments and results only; the tree of the results goes with them."""
    arguments, results = (tuple(0 for _ in side) for side in (traced.in_avals, traced.out_avals))
    plain = replace(traced, in_tree=jax.tree.structure((arguments, {})), out_tree=jax.tree.structure(results))
    return pickle.dumps((traced.out_tree, bytes(plain.serialize())))


def deserialize(content: bytes, args: tuple[Any, ...]) -> Program:
    """The inverse of `written`, for arguments in a tree like `args`."""
    results, code = pickle.loads(content)
    plain = export.deserialize(bytearray(code))
    return replace(plain, in_tree=jax.tree.structure((args, {})), out_tree=results).call


def read_checked(path: pathlib.Path, say: Callable[[str], None]) -> bytes | None:
    """The content of a file, behind its checksum; a damaged one is passed over with one line."""
    with contextlib.suppress(OSError):
        whole = path.read_bytes()
        if hashlib.sha256(whole[32:]).digest() == whole[:32]:
            return whole[32:]
        say(f"{path}: damaged; the program is traced again")
    return None
