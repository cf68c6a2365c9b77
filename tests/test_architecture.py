"""Which room may import which, as docs/architecture.md says; and the core without the heavy libraries."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest
import rooms

PACKAGE = pathlib.Path(__file__).parent.parent / "fedjax_mri"
MAY_IMPORT = {  # room -> the other rooms that its files may import
    "core": set(),
    "metrics": {"core"},
    "nets": {"core"},
    "data": {"core"},
    "tasks": {"core", "metrics", "nets", "data"},
    "fed": {"core", "metrics", "data", "tasks"},
    "xai": {"core", "metrics"},
    "run": {"core", "metrics", "nets", "data", "tasks", "fed", "xai"},
    "study": {"core", "metrics", "data", "tasks", "fed", "run"},
    "report": {"core", "metrics", "data", "tasks", "fed", "xai", "run", "study"},
    "convert": {"core", "metrics", "data", "tasks", "fed", "xai", "run"},
    "explain": {"core", "metrics", "data", "tasks", "fed", "xai", "run", "report"},
    "attack": {"core", "metrics", "data", "tasks", "fed", "run", "report"},
    "prepare": {"core", "data", "report"},
    "compile": {"core", "data", "fed", "run"},
    "secure": {"core"},
    "api": {"core", "data", "report", "convert", "explain", "run", "study", "tasks"},
    "deploy": {"core", "data", "fed", "run"},
    "serve": {"core", "data", "xai", "run", "report", "convert", "explain"},
    "cli": {"core", "data", "xai", "run", "study", "report", "convert", "prepare", "explain", "attack", "compile"}
    | {"deploy", "serve"},
}


def test_every_file_lies_in_a_room() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_each_room_imports_only_rooms_below_it(room) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        beyond = rooms.imports_of(path) - MAY_IMPORT[room] - {room}
        assert not beyond, f"{path.relative_to(PACKAGE)} imports {beyond}"


def test_the_picture_of_the_rooms_is_that_of_the_imports() -> None:
    """`python scripts/rooms.py` draws it."""
    assert rooms.PICTURE.read_text() == rooms.picture(rooms.rooms())


def test_the_page_has_a_sentence_on_each_room() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    assert re.findall(r"^\| `(\w+)/` \|", page, re.M) == list(MAY_IMPORT)


def test_the_files_that_the_page_names_exist() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text().split("## Adding a task")[0]
    named = re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", page)
    there = [path for path in named if (PACKAGE.parent / path).exists() or any(PACKAGE.glob(f"**/{path}"))]
    assert len(named) > 30 and there == named


def test_the_kernels_import_nothing_of_the_networks() -> None:
    for path in (PACKAGE / "nets" / "conv").glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        own = {node.module for node in nodes if (node.module or "").startswith("fedjax_mri")}
        assert all(module.startswith("fedjax_mri.nets.conv.") for module in own), path


def test_federation_names_no_task() -> None:
    for path in (PACKAGE / "fed").rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        tasks = {node.module for node in nodes if (node.module or "").startswith("fedjax_mri.tasks")}
        assert tasks <= {"fedjax_mri.tasks.task"}, path


def test_the_core_imports_with_jax_flax_optax_and_numpy_alone() -> None:
    """In a fresh interpreter that refuses every other third-party module."""
    program = """
import importlib, pkgutil, sys
refused = {"grain", "dm_pix", "pydicom", "tensorflow_datasets", "PIL", "imagehash", "matplotlib", "jinja2",
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
