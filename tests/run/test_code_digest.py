"""Digests of objects and of the code they reach: what changes them, what does not, and what has none."""

import collections
import enum
import functools
import operator
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_mri.core import code_installed, trees
from fedjax_mri.core.code_digest import digest
from fedjax_mri.fed.algorithms.fedavg import FedAvg


def made(source: str, name: str = "f", **names: object) -> object:
    """What `source` defines as `name`, executed in a namespace of its own as an interactive session's is."""
    space = {"__name__": "__main__", **names}
    exec(compile(textwrap.dedent(source), "<stdin>", "exec"), space)
    return space[name]


CASES = {  # what $ stands for, before and after
    "constant": ("f = lambda x: $ * x", "1.0", "0.0"),
    "operation": ("f = lambda x: x $ 2", "+", "-"),
    "type of a constant": ("f = lambda x: $ * x", "1", "1.0"),
    "default": ("def f(x, a=$): return x * a", "1", "2"),
    "default of a keyword": ("def f(x, *, a=$): return x * a", "1", "2"),
    "global": ("a = $\ndef f(x): return x * a", "1", "2"),
    "global of a function within": ("a = $\ndef f(x): return lambda: a", "1", "2"),
    "global by its name": ("a = $\ndef f(x): return globals()['a']", "1", "2"),
    "closure over a number": ("def g(a): return lambda x: x * a\nf = g($)", "1", "2"),
    "function it calls": ("def g(x): return $x\nf = lambda x: g(x)", "+", "-"),
    "method": ("class f:\n def g(self): return $", "1", "2"),
    "class attribute": ("class f:\n a = $", "1", "2"),
    "base": ("class A:\n a = $\nclass f(A): pass", "1", "2"),
    "property": ("class f:\n @property\n def a(self): return $", "1", "2"),
    "static method": ("class f:\n @staticmethod\n def a(): return $", "1", "2"),
    "class method": ("class f:\n @classmethod\n def a(cls): return $", "1", "2"),
    "state": ("class A: pass\nf = A()\nf.a = $", "1", "2"),
    "slot": ("class A: __slots__ = 'a'\nf = A()\nf.a = $", "1", "2"),
    "class of an instance": ("class A:\n def g(self): return $\nf = A()", "1", "2"),
    "bound method": ("class A:\n a = $\n def g(self): pass\nf = A().g", "1", "2"),
    "member": ("from enum import Enum\nclass A(Enum): a = $\nf = A.a", "1", "2"),
    "partial": ("from functools import partial\nf = partial(max, $)", "1", "2"),
    "order of a dict": ("f = {$}", "'a': 1, 'b': 2", "'b': 2, 'a': 1"),
    "set": ("f = {1, $}", "2", "3"),
    "jitted": ("import jax\nf = jax.jit(lambda x: $x)", "+", "-"),
    "mapped": ("import jax\nf = jax.vmap(lambda x: $x)", "+", "-"),
    "cached": ("from functools import cache\nf = cache(lambda x: $x)", "+", "-"),
    "custom gradient": (
        "import jax\nf = jax.custom_vjp(lambda x: x)\nf.defvjp(lambda x: (x, 1), lambda r, g: ($g,))",
        "+",
        "-",
    ),
    "flattening": (
        "import jax\nclass f: pass\njax.tree_util.register_pytree_node(f, lambda f: ((), $), lambda *_: f())",
        "1",
        "2",
    ),
    "optimiser": ("import optax\nf = optax.sgd($)", "0.1", "0.2"),
    "package function": ("import jax\nf = lambda x: jax.nn.$(x)", "relu", "gelu"),
    "alias of a package": ("import jax.$ as n\nf = lambda x: n.log1p(x)", "numpy", "lax"),
    "array": ("import numpy as np\nf = np.array([1, $])", "2", "3"),
    "dtype": ("import numpy as np\nf = np.zeros(2, '$')", "f4", "i4"),
    "shape": ("import numpy as np\nf = np.zeros($)", "(2, 3)", "(3, 2)"),
    "array of jax": ("import jax.numpy as np\nf = np.array([1, $])", "2", "3"),
    "key": ("import jax\nf = jax.random.key($)", "1", "2"),
    "builtin replaced": ("sum = $\ndef f(x): return sum(x)", "max", "min"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_changes_a_digest(case) -> None:
    source, before, after = CASES[case]
    digests = [digest(made(source.replace("$", value))) for value in (before, after, before)]
    assert digests[0] == digests[2] != digests[1] and None not in digests


def test_a_helper_module_counts_by_what_it_is_now(tmp_path, monkeypatch) -> None:
    """Its functions, its numbers, and what it imports in its turn; also where it is imported when it is called."""
    (tmp_path / "deeper_module.py").write_text("rate = 2\n")
    (tmp_path / "helping_module.py").write_text("import deeper_module as deep\ndef scale(x): return x * deep.rate\n")
    monkeypatch.syspath_prepend(tmp_path)
    uses = made("import helping_module\ndef f(x): return helping_module.scale(x)")
    imports = made("def f(x):\n from helping_module import scale\n return scale(x)")
    before = [digest(uses), digest(imports)]
    monkeypatch.setattr(sys.modules["deeper_module"], "rate", 3)
    after = [digest(uses), digest(imports)]
    assert None not in before + after and not set(before) & set(after)
    assert digest(made("def f(x):\n import never_imported\n return never_imported.scale(x)")) is None
    for name in ("deeper_module", "helping_module"):
        del sys.modules[name]


def test_a_global_that_changes_later_counts_as_it_is_now() -> None:
    function = made("a = 1\ndef f(x): return x * a")
    before = digest(function)
    function.__globals__["a"] = 2
    changed = digest(function)
    function.__globals__["a"] = 1
    assert before == digest(function) != changed


@pytest.mark.parametrize("wrap", ["jax.jit", "functools.cache"])
def test_a_function_that_remembers_has_none_once_its_globals_have_changed(wrap) -> None:
    """JAX takes what it has traced in this process before, and a program of that must not be kept as the new one."""
    uses = made(f"import jax, functools\na = 1\n@{wrap}\ndef g(x): return x * a\ndef f(x): return g(x)")
    before = digest(uses)
    uses.__globals__["a"] = 2
    assert digest(uses) is None is not before
    uses.__globals__["a"] = 1
    assert digest(uses) == before


def test_a_function_put_in_place_of_a_packages_counts(monkeypatch) -> None:
    """Of this one, of an installed one where it is named, and of an installed one's depths; all seen as strange."""
    calls, server = made("import jax\ndef f(x): return jax.nn.relu(x)"), FedAvg().build().server
    before = [digest(calls), digest(server), digest(code_installed.replaced_functions())]
    monkeypatch.setattr(jax.nn, "relu", functools.wraps(jax.nn.relu)(lambda x: x))
    assert digest(calls) != before[0]
    monkeypatch.setattr(jax.nn, "relu", jax.jit(functools.wraps(jax.nn.relu)(lambda x: -x)))
    assert digest(calls) != before[0]
    monkeypatch.setattr(trees, "scale", lambda by, tree: tree)
    assert digest(server) != before[1]
    monkeypatch.setattr(optax._src.transform, "scale_by_adam", lambda *_, **__: None)
    assert ("optax._src.transform", "scale_by_adam") in [found[:2] for found in code_installed.replaced_functions()]
    monkeypatch.undo()
    assert [digest(calls), digest(server), digest(code_installed.replaced_functions())] == before
    monkeypatch.setattr(FedAvg, "_server", lambda self, server, aggregate: server)
    assert digest(FedAvg()) != digest(made("f = 0")) and digest(code_installed.replaced_functions()) != before[2]


class Point(NamedTuple):
    x: float
    y: object = None


@dataclass(frozen=True)
class Settings:
    rate: float = 1.0
    inner: object = Point(1.0)


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Point(1.0), Point(2.0)),
        (Settings(), Settings(2.0)),
        (Settings(), Settings(inner=Point(1.0, Colour.RED))),
        (Colour.RED, 1),
        (np.float32(1), np.float64(1)),
        (True, 1),
        (0.0, -0.0),
        ((1,), [1]),
        ((1, (2, 3)), (1, 2, 3)),
        ({"a": [1]}, {"a": (1,)}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.defaultdict(int), collections.defaultdict(float)),
        (operator.itemgetter(1), operator.itemgetter(2)),
        (jnp.float32, jnp.float16),
        (np.dtype("f4"), np.dtype("f2")),
        (np.add, np.subtract),
        (jnp.add, jnp.subtract),
        (jax.tree.structure((1, 2)), jax.tree.structure([1, 2])),
        (np.random.default_rng(1), np.random.default_rng(2)),
        (pathlib.Path("a"), pathlib.Path("b")),
        (float("inf"), float("nan")),
        (optax.adam(1e-3), optax.adam(1e-3, b1=0.8)),
        (list[int], list[float]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_values_are_told_apart(one, other) -> None:
    assert digest(one) == digest(one) != digest(other) and None not in (digest(one), digest(other))


def test_cycles_end_and_what_lies_behind_them_counts() -> None:
    def ring(last: object) -> list:
        a = [1]
        a.append({"again": a, "function": lambda: a, "last": last})
        return a

    assert digest(ring(1)) == digest(ring(1)) != digest(ring(2))
    even = "def f(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != {} and f(n - 1)"
    assert digest(made(even.format(0))) != digest(made(even.format(1)))


def test_equal_constants_may_be_one_object_or_two() -> None:
    """Python shares them in code that it has compiled, and not always in code that it has read from a file."""
    pair = (float("1.5"), "a")
    assert digest([pair, pair]) == digest([pair, (float("1.5"), "a")])
    assert digest([{1, 2}, {1, 2}]) == digest([{2, 1}, {1, 2}])


def test_where_a_function_stands_in_its_file_is_nothing() -> None:
    assert digest(made("f = lambda x: x")) == digest(made("\n\n\nf = lambda x: x"))


def unknown() -> dict[str, object]:
    return {
        "generator": (i for i in range(3)),
        "file": open(os.devnull),
        "thread": threading.Thread(),
        "weak collection": weakref.WeakSet(),
        "frame": sys._getframe(),
        "function of C": np.frompyfunc(lambda x: x, 1, 1),
        "memory": memoryview(b"a"),
        "iterator of a list": iter([1]),
        "made by an extension": jax.jit(lambda x: x).lower(1.0).compile(),
    }


@pytest.mark.parametrize("what", unknown())
def test_what_cannot_be_looked_into_has_no_digest(what) -> None:
    x = unknown()[what]
    assert digest(x) is None
    assert digest(made("f = lambda: x", x=x)) is None
    assert digest(functools.partial(max, Settings(inner=[x]))) is None


@pytest.mark.parametrize(
    "code",
    [
        "import os\ndef f(x): return x * float(os.environ['FACTOR'])",
        "from os import getenv\ndef f(x): return x * float(getenv('FACTOR'))",
        "import random\ndef f(x): return x * random.random()",
    ],
)
def test_a_function_that_reads_the_environment_or_pythons_random_state_has_no_digest(code: str) -> None:
    assert digest(made(code)) is None


def test_values_that_are_being_traced_have_no_digest() -> None:
    found = []
    jax.jit(lambda x: found.append(digest(lambda: x)) or x)(1.0)
    assert found == [None]


def test_a_digest_is_the_same_in_every_process() -> None:
    """Whatever the order of sets and the addresses; with the code read from Python's cache of it, and without."""
    program = """
import sys, itertools, jax, flax.nnx, numpy as np
if sys.argv[1:]:  # what comes now is compiled anew
    sys.dont_write_bytecode, sys.pycache_prefix = True, sys.argv[1]
import optax
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.core.code_digest import digest
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.run import config
from fedjax_mri.fed.algorithms import scaffold
a = {"x", "y", "z"}
f = lambda x: (x in {"p", "q", "r"}, a, np.random.normal(), jax.random.key(3))
print(digest(f, segments.build, evaluate.build, scaffold, config.Experiment(Phantom()), optax.adam(1e-3)))
"""
    root = str(pathlib.Path(__file__).parent.parent)
    said = [
        subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
        )
        for seed, words in (("1", ()), ("2", ("/nowhere",)))
    ]
    assert said[0].stdout == said[1].stdout and len(said[0].stdout.strip()) == 64, said[0].stderr
