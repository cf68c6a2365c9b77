"""Explains a few test examples at each state that a run has kept, into RUN/explanations.npz for its report.

The target is the true class, so that maps of different states answer the same question.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.explain import maps, model
from fedjax_mri.explain.model import Trained
from fedjax_mri.run import restore, results
from fedjax_mri.run.checkpoint import Checkpoints
from fedjax_mri.run.models import global_model
from fedjax_mri.run.record import Explained
from fedjax_mri.tasks.task import Model

Say = Callable[[str], None]


def save(run: Path, methods: Sequence[str], say: Say) -> None:
    """Explains the examples that a run has kept, by each method, into its folder.

    Raises UserError where it has kept none, or is no classifier.
    """
    examples = results.examples(run)
    if examples is None:
        raise UserError(f"{run}: has kept no labelled test images; give a run that classifies images")
    results.save_explained(run, explain(run, methods, examples.image, examples.truth, examples.mask, say))


def explain(
    run: Path, methods: Sequence[str], image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None, say: Say
) -> Explained:
    """Explains images [s, H, W, C] as read, of classes `truth` int [s], by each method at each state that a run kept.

    `mask` float [s, H, W, 1] are the true lesions, where they are known.
    """
    trained, rounds = model.load([run]), Checkpoints(run).rounds()
    x, target, key = trained.preprocess(jnp.asarray(image)), jnp.asarray(truth), jax.random.key(0)
    states = [global_model(restore.restore(run, round=round)) for round in rounds]
    explainers = maps.explainers(trained, methods, say)
    lesion = None if mask is None else np.asarray(jax.image.resize(jnp.asarray(mask[..., 0]), x.shape[:3], "linear"))
    return Explained(
        rounds=np.array(rounds),
        truth=np.asarray(target),
        image=np.asarray(x).mean(-1),
        truth_probability=np.stack([truth_probability(trained, state, x, target) for state in states]),
        maps={one.name: np.stack([np.asarray(one.maps([m], x, target, key)) for m in states]) for one in explainers},
        mask=lesion,
    )


def truth_probability(trained: Trained, state: Model, x: jax.Array, truth: jax.Array) -> np.ndarray:
    """Returns the probability [s] that a state gives the true class of each image."""
    return np.asarray(jnp.take_along_axis(jax.nn.softmax(trained.predict([state], x)), truth[:, None], 1)[:, 0])
