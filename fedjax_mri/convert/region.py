"""Which pixels of a source moved a region of what a translator made of it."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.convert.translate import Translator
from fedjax_mri.core.errors import UserError
from fedjax_mri.xai import methods

METHODS = ("smoothgrad", "saliency", "gradinput", "ig", "occlusion")  # those that need no layers of a classifier


def explain(translator: Translator, to: str, source: np.ndarray, region: np.ndarray, method: str) -> np.ndarray:
    """Returns the map [H, W] of a method on the mean of `region`, bool [H, W], of what is made of a source [H, W].

    Both are on the model's own grid. Raises UserError on an empty region, a method of another kind, or a run
    that predicts no image.
    """
    if method not in METHODS:
        raise UserError(f"method {method}: give one of {', '.join(METHODS)}")
    if translator.predict is None:
        raise UserError("what this run makes cannot be explained: its task predicts no image")
    if not region.any():
        raise UserError("the region holds no pixel of the image: draw a larger one")
    predict, inside = translator.predict, jnp.asarray(region[None, ..., None], jnp.float32)

    def mean_of_region(x: jax.Array) -> jax.Array:
        return ((predict(to, x) * inside).sum((1, 2)) / inside.sum()).reshape(-1, 1)

    explainer = methods.settings(method).build()
    x, target = jnp.asarray(source[None, ..., None], jnp.float32), jnp.zeros(1, jnp.int32)
    found = jax.jit(lambda x, target, key: explainer(mean_of_region, x, target, key))(x, target, jax.random.key(0))
    return np.asarray(found[0], np.float32)
