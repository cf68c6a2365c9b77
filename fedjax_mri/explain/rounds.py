"""How a run explained a few test examples at each state that it has kept: RUN/explanations.npz, for its report.

The target is the true class, so that maps of different states answer the same question.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.explain import maps, model
from fedjax_mri.explain.model import Trained
from fedjax_mri.run import restore, results, runfolder
from fedjax_mri.run.checkpoint import Checkpoints
from fedjax_mri.run.models import own
from fedjax_mri.tasks.task import Model

Say = Callable[[str], None]


def save(run: Path, names: Sequence[str], say: Say) -> None:
    """Of the examples that the run's results show. Raises UserError where it shows none, or is no classifier."""
    shown = results.shown(run)
    if not ("image" in shown and "truth" in shown):
        raise UserError(f"{run}: has kept no labelled test images; give a run that classifies images")
    runfolder.save_arrays(run / results.EXPLANATIONS, explained(run, names, shown, say))


def explained(run: Path, names: Sequence[str], examples: Mapping[str, np.ndarray], say: Say) -> dict[str, np.ndarray]:
    """The examples as the network sees them, and a map [R, s, S, S] for each of `names` and of R kept states.

    examples: "image" [s, H, W, C] as read, "truth" int [s], "mask" [s, H, W, 1] where there is one.
    """
    this = model.trained([run])
    x, truth = this.seen(jnp.asarray(examples["image"])), jnp.asarray(examples["truth"])
    rounds = Checkpoints(run).rounds()
    states = [own(restore.restore(run, round=round)) for round in rounds]
    found = {
        "rounds": np.array(rounds),
        "truth": np.asarray(truth),
        "image": np.asarray(x).mean(-1),
        "chance": np.stack([chance(this, state, x, truth) for state in states]),
    }
    if "mask" in examples:
        found["mask"] = np.asarray(jax.image.resize(jnp.asarray(examples["mask"][..., 0]), x.shape[:3], "linear"))
    key = jax.random.key(0)
    for one in maps.explainers(this, names, say):
        found[f"map/{one.name}"] = np.stack([np.asarray(one.maps([state], x, truth, key)) for state in states])
    return found


def chance(this: Trained, state: Model, x: jax.Array, truth: jax.Array) -> np.ndarray:
    """The true class's probability, [s]."""
    return np.asarray(jnp.take_along_axis(jax.nn.softmax(this.answer([state], x)), truth[:, None], 1)[:, 0])
