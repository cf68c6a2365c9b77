"""The state of a run on disk, written by Orbax: it is there as a whole, or not at all."""

import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.run import processes

PyTree = Any


class Checkpoints:
    """The checkpoints of one run, in RUN/checkpoints/<round>."""

    def __init__(self, run: pathlib.Path, keep: int = 2) -> None:
        import orbax.checkpoint as ocp

        self.folder = run.absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handler)

    def latest(self) -> int | None:
        """Returns the round of the newest complete checkpoint, or None where there is none."""
        return self._manager.latest_step()

    def rounds(self) -> list[int]:
        """Returns the rounds of all complete checkpoints, in order."""
        return saved_rounds(self.folder.parent)

    def save(self, round: int, state: PyTree) -> None:
        """Saves the state; it is on disk when this returns. A round that was saved before is left as it is.

        Raises UserError, with the earlier checkpoints kept, when it cannot be saved.
        """
        import orbax.checkpoint as ocp

        if round in self.rounds():
            return
        refuse_full_disk(self.folder, state)
        try:
            self._manager.save(round, args=ocp.args.StandardSave(trees.named(state)), force=True)
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise what the file system gave them in many types
            if gone := processes.lost_process_error(error):
                raise gone from error
            last = max((step for step in self._manager.all_steps(read=True) if step < round), default=None)
            kept = f"round {last} is the last good checkpoint" if last is not None else "there is no earlier checkpoint"
            raise UserError(f"{self.folder}: cannot save round {round} ({short_message(error)}); {kept}") from error

    def restore(self, shapes: PyTree, round: int | None = None) -> PyTree:
        """Returns the state of `round`, or the newest, in the tree of `shapes`.

        Raises UserError when it is missing, damaged, or of other shapes.
        """
        round = self._newest() if round is None else round
        return fill_shapes(shapes, self._read(round), self.folder / str(round))

    def leaves(self) -> dict[str, np.ndarray]:
        """Returns all leaves of the newest state by their names. Raises UserError when it is missing or damaged."""
        return self._read(self._newest())

    def _newest(self) -> int:
        round = self.latest()
        if round is None:
            raise UserError(f"{self.folder}: no checkpoint to restore; has the run finished its first segment?")
        return round

    def _read(self, round: int) -> dict[str, np.ndarray]:
        import orbax.checkpoint as ocp

        try:
            # As NumPy arrays: the devices that it was saved from need not be there.
            saved = self._manager.item_metadata(round)
            like = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in saved.items()}
            return self._manager.restore(round, args=ocp.args.StandardRestore(like))
        except Exception as error:
            place = self.folder / str(round)
            raise processes.lost_process_error(error) or UserError(
                f"{place}: the checkpoint is damaged ({short_message(error)}); delete that folder to go on from an "
                "earlier one"
            ) from error


def saved_rounds(run: pathlib.Path) -> list[int]:
    """Returns the rounds of all complete checkpoints in a run's folder, in order; reads no checkpoint."""
    found = [file.parent.name for file in (run / "checkpoints").glob("*/_CHECKPOINT_METADATA")]
    return sorted(int(name) for name in found if name.isdecimal())


def with_checkpoints(run: pathlib.Path | None) -> pathlib.Path:
    """Returns the folder of a run. Raises UserError when it holds no checkpoints."""
    if run is None or not (run / "checkpoints").is_dir():
        raise UserError(f"{run}: no checkpoints there; give the folder of a run")
    return run


def fill_shapes(shapes: PyTree, leaves: dict[str, np.ndarray], source: pathlib.Path | str) -> PyTree:
    """Returns the tree of `shapes` with the leaves of the same names. Raises UserError where the two do not fit."""
    wanted = {trees.name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)}
    for extra in sorted(leaves.keys() - wanted):
        raise UserError(f"{source}: holds {extra}, of which this run has nothing: it was saved by another method")

    def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        value = leaves.get(trees.name(path))
        if value is None or value.shape != shape.shape:
            found = "nothing" if value is None else f"shape {value.shape}"
            raise UserError(f"{source}: {trees.name(path)} should have shape {shape.shape}, found {found}")
        return np.asarray(value, shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def refuse_full_disk(folder: pathlib.Path, state: PyTree) -> None:
    """Raises UserError when the disk cannot take another copy of `state` and half of one to spare."""
    need, free = trees.nbytes(state) * 3 // 2 + 2**20, shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{folder}: {free / 1e6:.0f} MB free, a checkpoint wants {need / 1e6:.0f}; free space, then run again"
        )
