"""The frozen encoder of perceptual losses: the feature maps of a classifier that a run has trained."""

import functools
import pathlib

import jax

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import restore
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.models import classifier, global_model
from fedjax_mri.tasks.task import Encoder
from fedjax_mri.xai.layers import features
from fedjax_mri.xai.method import Scores


def of_run(path: str) -> Encoder:
    """Returns an encoder from images [B, H, W, C] in 0..1 to a run's last activations of each size, the largest first.

    Johnson et al. 2016.

    The model is read when the encoder is first used: what was trained with it needs it no more. The config is read now:
    a traced program is named after the code that it reaches, and that of the encoder's network is reached by it. Images
    of another size than the classifier's are brought to that. Raises UserError where no path is given or the run is no
    classifier.
    """
    if not path:
        raise UserError("task.extras.encoder_path is empty: give the folder of a run that classifies such images")
    run = pathlib.Path(path)
    config = settings(run)
    load = functools.cache(lambda: frozen(run, config))

    def encode(x: jax.Array) -> list[jax.Array]:
        size, scores = load()
        if x.shape[-1] != size[-1]:
            raise UserError(f"task.extras.encoder_path={path}: sees {size[-1]} channels, images have {x.shape[-1]}")
        return features(scores, x if x.shape[1:] == size else jax.image.resize(x, (len(x), *size), "linear"))

    return encode


def settings(run: pathlib.Path) -> Experiment | None:
    """Returns the config of a run; None where it cannot be read, as when the run is no longer there."""
    try:
        return restore.read_model_config(run)
    except UserError:
        return None


def frozen(run: pathlib.Path, config: Experiment | None) -> tuple[tuple[int, ...], Scores]:
    """Returns the shape of the images that a run's classifier reads, and its scores of them.

    Raises UserError where the run is no classifier, or not the one that had this config.
    """
    with jax.ensure_compile_time_eval():  # within a function that is being traced
        restored = restore.restore_best_or_newest(run)
        if restored.config != config:
            raise UserError(f"task.extras.encoder_path={run}: has been written anew meanwhile; start this run again")
        steps, model = classifier(restored, run), global_model(restored)
    return restored.described.image, lambda x: steps.logits(model.params, model.carry, steps.preprocess(x))
