"""Explanation methods by name, compiled for a run's network; one that cannot explain it is reported and left out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.explain.model import Trained, mean_prediction
from fedjax_mri.tasks.task import Model
from fedjax_mri.xai import faithfulness, measures, methods

Say = Callable[[str], None]
Method = Callable[..., jax.Array]  # (scores, x, target, key) -> maps
ORDER = (  # of measures in tables; compiled functions give them in alphabetical order
    *("pointing", "energy inside", "IoU", "activation intensity", "region coverage", "sparseness"),
    *("deletion", "insertion", "faithfulness", "sensitivity"),
)


class MeasureSettings(NamedTuple):
    """How often, and how, measures of a map ask the network again."""

    steps: int = 16  # of insertion and deletion
    subsets: int = 64  # of faithfulness
    radius: float = 0.02  # of the disturbance, in the network's units
    samples: int = 4  # disturbances


class Explainer(NamedTuple):
    """A method for the network of one run, compiled."""

    name: str
    maps: Callable[[Sequence[Model], jax.Array, jax.Array, jax.Array], jax.Array]  # models, x, target, key
    # the same, and maps, brain [B, H, W], scale [] -> measures [B]
    measures: Callable[..., dict[str, jax.Array]]


def explainers(trained: Trained, names: Sequence[str], say: Say) -> list[Explainer]:
    """Returns an explainer for each name that is known and whose method can explain this network.

    The others are a line to `say` each. Raises UserError where none is left.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in methods.METHODS:
            say(f"{name}: no such method; choose of {', '.join(methods.METHODS)}")
            continue
        try:
            found.append(explainer(trained, name, MeasureSettings()))
        except UserError as error:
            say(f"{name}: {error}")
    if not found:
        raise UserError(f"--methods {','.join(names)}: none is left; choose of {', '.join(methods.METHODS)}")
    return found


def explainer(trained: Trained, name: str, settings: MeasureSettings) -> Explainer:
    """Returns the method of that name for the network. Raises UserError on a network that the method cannot explain."""
    method = methods.settings(name).build()
    maps, key = partial(mean_maps, trained, method), jax.random.key(0)
    x = jax.eval_shape(trained.preprocess, jax.ShapeDtypeStruct((1, *trained.image), jnp.float32))
    jax.eval_shape(maps, trained.models, x, jax.ShapeDtypeStruct((1,), jnp.int32), key)
    return Explainer(name, jax.jit(maps), jax.jit(partial(measure, trained, maps, settings)))


def mean_maps(
    trained: Trained, method: Method, models: Sequence[Model], x: jax.Array, target: jax.Array, key: jax.Array
) -> jax.Array:
    """Returns the mean [B, H, W] of the maps of all models."""
    return jnp.stack([method(partial(centred_logits, trained, [model]), x, target, key) for model in models]).mean(0)


def centred_logits(trained: Trained, models: Sequence[Model], x: jax.Array) -> jax.Array:
    """Returns the logits [B, K] of the models' mean prediction, less their mean over classes.

    A prediction does not change when all logits rise together; without this a map might show what makes them rise.
    """
    logits = mean_prediction(trained.logits, models, x)
    count = logits.shape[1]
    # As a matrix, which LRP takes for a layer: a mean it would take for a norm's, and no relevance goes through those.
    return jnp.matmul(logits, jnp.eye(count) - 1 / count, precision="highest")


def measure(
    trained: Trained,
    maps: Callable[..., jax.Array],
    settings: MeasureSettings,
    models: Sequence[Model],
    x: jax.Array,
    target: jax.Array,
    key: jax.Array,
    found: jax.Array,
    brain: jax.Array,
    scale: jax.Array,
) -> dict[str, jax.Array]:
    """Returns all measures that need no true lesion; pixels taken away show the darkest value of their image."""
    logits, black = partial(centred_logits, trained, models), x.min((1, 2, 3), keepdims=True)
    return {
        "activation intensity": measures.activation_intensity(found, scale),
        "region coverage": measures.region_coverage(found, brain, scale),
        "sparseness": measures.gini(found),
        "deletion": faithfulness.deletion(logits, x, target, found, black, settings.steps),
        "insertion": faithfulness.insertion(logits, x, target, found, black, settings.steps),
        "faithfulness": faithfulness.correlation(logits, x, target, found, key, black, settings.subsets),
        "sensitivity": faithfulness.max_sensitivity(
            lambda moved: maps(models, moved, target, key), x, key, settings.radius, settings.samples
        ),
    }
