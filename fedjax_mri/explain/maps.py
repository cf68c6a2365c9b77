"""Methods by name, compiled for a run's network; what cannot be is said in a line and left out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_mri.core.errors import UserError
from fedjax_mri.explain.model import Trained, scores
from fedjax_mri.tasks.task import Model
from fedjax_mri.xai import faithfulness, measures, methods

Say = Callable[[str], None]
Method = Callable[..., jax.Array]  # (scores, x, target, key) -> maps
ORDER = (  # of measures in tables; compiled functions give them in alphabetical order
    *("pointing", "energy inside", "IoU", "activation intensity", "region coverage", "sparseness"),
    *("deletion", "insertion", "faithfulness", "sensitivity"),
)


class Measuring(NamedTuple):
    """How maps are measured by asking the network again."""

    steps: int = 16  # of insertion and deletion
    subsets: int = 64  # of faithfulness
    radius: float = 0.02  # of the disturbance, in the network's units
    samples: int = 4  # disturbances


class Explainer(NamedTuple):
    """One method on one run's network, compiled."""

    name: str
    maps: Callable[[Sequence[Model], jax.Array, jax.Array, jax.Array], jax.Array]  # models, x, target, key
    # the same and maps, brain [B, H, W], scale [] -> figures [B]
    measured: Callable[..., dict[str, jax.Array]]


def explainers(this: Trained, names: Sequence[str], say: Say) -> list[Explainer]:
    """One for each name that is known and whose method takes this network. Raises UserError where none is left."""
    found = []
    for name in dict.fromkeys(names):
        if name not in methods.METHODS:
            say(f"{name}: no such method; choose of {', '.join(methods.METHODS)}")
            continue
        try:
            found.append(explainer(this, name, Measuring()))
        except UserError as error:
            say(f"{name}: {error}")
    if not found:
        raise UserError(f"--methods {','.join(names)}: none is left; choose of {', '.join(methods.METHODS)}")
    return found


def explainer(this: Trained, name: str, measuring: Measuring) -> Explainer:
    """Raises UserError on a network that the method cannot take."""
    method = methods.settings(name).build()
    maps, key = partial(mean_maps, this, method), jax.random.key(0)
    x = jax.eval_shape(this.seen, jax.ShapeDtypeStruct((1, *this.image), jnp.float32))
    jax.eval_shape(maps, this.models, x, jax.ShapeDtypeStruct((1,), jnp.int32), key)
    return Explainer(name, jax.jit(maps), jax.jit(partial(measured, this, maps, measuring)))


def mean_maps(
    this: Trained, method: Method, models: Sequence[Model], x: jax.Array, target: jax.Array, key: jax.Array
) -> jax.Array:
    """The models' mean map [B, H, W]."""
    return jnp.stack([method(partial(told_apart, this, [model]), x, target, key) for model in models]).mean(0)


def told_apart(this: Trained, models: Sequence[Model], x: jax.Array) -> jax.Array:
    """Logits [B, K] less their mean over classes.

    A prediction does not change when all logits rise together; without this a map might show what makes them rise.
    """
    logits = scores(this.apply, models, x)
    count = logits.shape[1]
    # As a matrix, which LRP takes for a layer: a mean it would take for a norm's, and no relevance goes through those.
    return jnp.matmul(logits, jnp.eye(count) - 1 / count, precision="highest")


def measured(
    this: Trained,
    maps: Callable[..., jax.Array],
    how: Measuring,
    models: Sequence[Model],
    x: jax.Array,
    target: jax.Array,
    key: jax.Array,
    found: jax.Array,
    brain: jax.Array,
    scale: jax.Array,
) -> dict[str, jax.Array]:
    """All that needs no true lesion; pixels taken away show the darkest value of their image."""
    ask, black = partial(told_apart, this, models), x.min((1, 2, 3), keepdims=True)
    return {
        "activation intensity": measures.activation_intensity(found, scale),
        "region coverage": measures.region_coverage(found, brain, scale),
        "sparseness": measures.gini(found),
        "deletion": faithfulness.deletion(ask, x, target, found, black, how.steps),
        "insertion": faithfulness.insertion(ask, x, target, found, black, how.steps),
        "faithfulness": faithfulness.correlation(ask, x, target, found, key, black, how.subsets),
        "sensitivity": faithfulness.max_sensitivity(
            lambda moved: maps(models, moved, target, key), x, key, how.radius, how.samples
        ),
    }
