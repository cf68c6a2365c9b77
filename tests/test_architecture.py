"""The layer rule of docs/architecture.md, on the import graph; and the core without the heavy libraries."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "fedjax_mri"
ANYWHERE = {"errors", "trees", "keys", "imports", "paths", "disk", "programs"}
ALLOWED = {
    "metrics": set(),
    "nets": set(),
    "data": set(),
    "tasks": {"metrics", "nets", "data"},
    "fed": {"metrics", "data", "tasks"},
    "xai": {"metrics"},
}


def imports(path: pathlib.Path) -> set[str]:
    """Top-level parts of this package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("fedjax_mri"):
            parts = [*node.module.split(".")[1:], *(alias.name for alias in node.names)]
            found.add(parts[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fedjax_mri.")}
    return found


@pytest.mark.parametrize("layer", ALLOWED)
def test_each_layer_imports_only_what_stands_above_it(layer) -> None:
    files = list((PACKAGE / layer).rglob("*.py"))
    assert files
    for path in files:
        beyond = imports(path) - ALLOWED[layer] - ANYWHERE - {layer}
        assert not beyond, f"{path.relative_to(PACKAGE)} imports {beyond}"


def test_federation_names_no_task() -> None:
    for path in (PACKAGE / "fed").rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        tasks = {node.module for node in nodes if (node.module or "").startswith("fedjax_mri.tasks")}
        assert tasks <= {"fedjax_mri.tasks.task"}, path


def test_the_core_imports_with_jax_flax_optax_and_numpy_alone() -> None:
    """In a fresh interpreter that refuses every other third-party module."""
    program = """
import importlib, pkgutil, sys
refused = {"grain", "dm_pix", "pydicom", "tensorflow_datasets", "PIL", "imagehash", "matplotlib", "jinja2", "tyro",
           "tqdm", "tensorboardX", "orbax", "nibabel", "safetensors", "torch"}
before = set(sys.modules)
import jax, flax.nnx, optax, numpy
brought = {name.split(".")[0] for name in sys.modules} & refused  # by flax itself
for name in refused - brought:
    sys.modules[name] = None
import fedjax_mri
for part in ("fed", "nets", "tasks", "metrics", "xai", "data.phantom"):
    package = importlib.import_module(f"fedjax_mri.{part}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print("imported")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "imported", done.stderr
