"""A run's model for programs without this package: a StableHLO program, its weights by name, and what they mean.

model.mlirbc        a portable StableHLO module, preprocessing and weights included; its function is `main`
model.safetensors   the weights and statistics by the names that the network gives them
model.json          inputs and outputs of the program, in their order, units, modalities, classes, versions
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from fedjax_mri.core import disk, trees
from fedjax_mri.core.errors import UserError, install
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.run import models, restore, runfolder
from fedjax_mri.run.assemble import assemble_task
from fedjax_mri.run.line import MODALITIES
from fedjax_mri.tasks.task import Task

UNITS = {"unit": "0 to 1", "grey": "1 is white", "hu": "HU", "any": "as in training"}


def export(run: pathlib.Path, out: pathlib.Path, batch: int = 1) -> list[pathlib.Path]:
    """Writes the three files for `batch` images at a time into the folder `out`, and returns their paths.

    It is the model of the best round where that was kept. Images are float32, in the units that model.json names; the
    outputs are what `Run.predict` gives. Raises UserError where `out` holds such files, and for a task that does not
    say which fields it reads.
    """
    if batch < 1:
        raise UserError(f"--batch {batch}: give the number of images that the program takes at a time, 1 or more")
    paths = [out / name for name in ("model.mlirbc", "model.safetensors", "model.json")]
    if there := [path for path in paths if path.exists()]:
        raise UserError(f"{there[0]}: is there already; choose another --out")
    restored = restore.restore_best_or_newest(run)
    # Other compilers know a convolution; our own ways of computing one are for training on a CPU.
    task = assemble_task(restored.config, restored.algorithm, restored.described, Compute("xla"))
    model = models.global_model(restored._replace(task=task))
    inputs = inputs_of(run, task, restored.described.image, batch)

    def predict(fields: dict[str, jax.Array]) -> Any:
        return task.predict(model.params, model.carry, {**fields, "weight": jnp.ones(batch)})

    program = jax_export.export(jax.jit(predict), platforms=["cpu"])(inputs)
    taken = [name for place, name in enumerate(sorted(inputs)) if place in program.module_kept_var_idx]
    about = {
        "name": restored.config.name,
        "synthetic": runfolder.read_json(run / "run.json")["synthetic"],
        "classes": restored.described.classes,
        "inputs": [
            {
                **shape_of(name, inputs[name]),
                "units": UNITS[task.reads[name]],
                "modality": name if name in MODALITIES else ", ".join(restored.described.modalities) or "unknown",
            }
            for name in taken
        ],
        "window HU": task.translation.window if task.translation else None,
        "outputs": [shape_of(name, leaf) for name, leaf in trees.named(jax.eval_shape(predict, inputs)).items()],
        "versions": runfolder.versions(),
    }
    out.mkdir(parents=True, exist_ok=True)
    disk.write_bytes(paths[0], program.mlir_module_serialized)
    disk.write_bytes(paths[1], as_safetensors(model))
    disk.write_json(paths[2], about)
    return paths


def inputs_of(run: pathlib.Path, task: Task, image: tuple[int, ...], batch: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the fields that the task reads to predict. Raises UserError where it does not say them."""
    names = [name for name, holds in task.reads.items() if holds != "class"]
    if not names:
        raise UserError(f"{run}: its task does not say which fields it reads: let `reads` of the task name them")
    channels = image[-1] if len(names) == 1 else 1  # a pair of modalities has one channel each
    return {name: jax.ShapeDtypeStruct((batch, *image[:-1], channels), jnp.float32) for name in names}


def shape_of(name: str, leaf: Any) -> dict[str, Any]:
    """Returns how model.json describes an input or an output."""
    return {"name": name or "prediction", "shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def as_safetensors(model: Any) -> bytes:
    """Returns the leaves of a model by name as a .safetensors file. Raises UserError without the package."""
    try:
        from safetensors.numpy import save
    except ImportError:
        raise UserError(f"export: the package safetensors is missing; {install('weights')}") from None
    return save({name: np.ascontiguousarray(leaf) for name, leaf in trees.named(model).items()})
