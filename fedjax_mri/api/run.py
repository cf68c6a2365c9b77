"""A run in Python: train a config, read its figures, predict with its model, write its report."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.convert import translate
from fedjax_mri.convert.translate import Translator
from fedjax_mri.core import environment
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import check
from fedjax_mri.explain import model as classifiers
from fedjax_mri.explain.model import Trained
from fedjax_mri.report import audit
from fedjax_mri.report import run as report
from fedjax_mri.run import config as configs
from fedjax_mri.run import experiment, models, restore, results, runfolder
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.line import TestFigures, progress_line
from fedjax_mri.run.record import RunRecord
from fedjax_mri.run.restore import Restored
from fedjax_mri.tasks.task import Model, PyTree

Say = Callable[[str], None]


def load_config(path: str | pathlib.Path, name: str = "") -> Experiment:
    """Returns the experiment of a config file, or the one called `name` of a file that has several.

    Raises UserError where the file has none of that name. Fields are changed with `dataclasses.replace`, or with
    `with_field(config, "local.learning_rate", 0.1)`.
    """
    found = configs.load(path)
    if name not in found:
        there = f"name one of {', '.join(found)}" if any(found) else "it has one, without a name"
        raise UserError(f"{path}: no experiment {name!r}; {there}")
    return found[name]


def train(
    config: Experiment, out: str | pathlib.Path, resume_from: str | pathlib.Path | None = None, say: Say = print
) -> "Run":
    """Trains a config in the folder `out`, or goes on where that stopped, and returns the run.

    `say` gets each line of progress. Ctrl-C ends it after the segment that it trains, and raises KeyboardInterrupt; to
    call it again goes on. Raises UserError on a bad config, bad data, or a folder that holds another run.
    """
    environment.prepare_jax()
    if stopped := experiment.run(config, out, resume_from, say, lambda progress: say(progress_line(progress))):
        raise KeyboardInterrupt(stopped)
    return Run(pathlib.Path(out))


@dataclass(frozen=True)
class Run:
    """A run that has trained, in its folder. All that it holds is read when it is asked for.

    Raises UserError where the folder holds no run.
    """

    folder: pathlib.Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", pathlib.Path(self.folder))
        if not runfolder.is_run(self.folder):
            raise UserError(f"{self.folder}: holds no run; give the folder that `train` wrote")

    @cached_property
    def config(self) -> Experiment:
        """The experiment as it was trained."""
        return runfolder.read_config(self.folder)

    @cached_property
    def record(self) -> RunRecord:
        """All that the report says: classes, labels by client, predictions on each test set, warnings."""
        return results.load(self.folder)

    @cached_property
    def history(self) -> dict[str, np.ndarray]:
        """The figures of all evaluations by name, such as "round" and "unseen sites/accuracy", float64 [lines].

        A figure is nan where an evaluation has not measured it.
        """
        lines = runfolder.read_history(self.folder)
        names = dict.fromkeys(name for line in lines for name in line)
        return {name: np.array([line.get(name, np.nan) for line in lines], np.float64) for name in names}

    @property
    def figures(self) -> dict[str, TestFigures]:
        """The figures of the last evaluation, by test set."""
        return dict(results.history(self.folder)[-1].tests)

    def sites(self) -> list[audit.Row]:
        """Returns accuracy, sensitivity and calibration of each site and group of sites, of a run that classifies."""
        return audit.audit(self.folder)

    @cached_property
    def restored(self) -> Restored:
        """The task with the saved state, at the best round where that was kept."""
        return restore.restore_best_or_newest(self.folder)

    @cached_property
    def model(self) -> Model:
        """The global model: parameters, and what changes without a gradient, such as statistics."""
        return models.global_model(self.restored)

    def predict(self, **fields: np.ndarray) -> PyTree:
        """Returns what the task predicts for the fields of examples [B, ...], such as `image=` or `ct=` and `mr=`.

        The fields are as the source gives them: images [B, H, W, C] as uint8, or float in 0..1 or HU. A classifier
        gives probabilities [B, C]; a translator gives a dict of images by modality. Raises UserError where a field that
        the task reads is missing, has another shape, or holds what training would have refused.
        """
        arrays = {name: np.asarray(value) for name, value in fields.items()}
        self._check_fields(arrays)
        batch = {**arrays, "weight": np.ones(len(next(iter(arrays.values()))), np.float32)}
        try:
            return self._predict(*self.model, jax.tree.map(jnp.asarray, batch))
        except KeyError as error:
            raise UserError(f"predict: the task reads {error} as well; give {error.args[0]}=...") from None

    def _check_fields(self, arrays: dict[str, np.ndarray]) -> None:
        """Raises UserError where fields [B, ...] are not as the task reads them."""
        image, reads = self.restored.described.image, self.restored.task.reads
        reads = {name: reads[name] for name in arrays if reads.get(name, "class") != "class"}
        for name, value in arrays.items():
            if value.ndim == 0 or value.dtype.kind not in "biuf":
                raise UserError(f"predict: {name}={value!r:.60}: give an array of numbers, an example in each row")
            other = value.ndim != len(image) + 1 or (name == "image" and value.shape[-1] != image[-1])
            if other and reads.get(name, "any") != "any":
                raise UserError(f"predict: {name} has the shape {value.shape}; give (B, {', '.join(map(str, image))})")
        if len({len(value) for value in arrays.values()}) != 1:
            sizes = {name: len(value) for name, value in arrays.items()}
            raise UserError(f"predict: fields with as many examples each are needed, not {sizes}")
        check.check_fields("predict", arrays, reads, self.restored.described.classes)

    @cached_property
    def _predict(self) -> Callable[..., PyTree]:
        return jax.jit(self.restored.task.predict)

    def translate(self, images: np.ndarray, to: str) -> np.ndarray:
        """Returns images [B, H, W, 1] of the modality `to`, "ct" or "mr", made from those of the other one.

        CT is in HU where the run was trained in HU, all else in 0..1. Raises UserError where the run makes none.
        """
        if to not in self._translators:
            self._translators[to] = translate.translate(self.folder, to)
        return self._translators[to].draw(to, images, None)

    @cached_property
    def _translators(self) -> dict[str, Translator]:
        """The translators that have been used, by the modality that they make: each is restored and compiled once."""
        return {}

    def classifier(self) -> Trained:
        """Returns the classifier in steps, preprocessing and network, as methods of `fedjax_mri.xai` take it.

        Raises UserError where the run does not classify.
        """
        return classifiers.load([self.folder])

    def report(self) -> pathlib.Path:
        """Writes report.html into the folder, and returns its path."""
        return report.write([self.record], self.folder / "report.html")
