"""Which patients a synthetic hospital sees, how many and of which classes: common to the sites of every phantom."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.partition import apportion

Range = tuple[float, float]
DRAWN = -1  # number of patients of a site that draws its own


@dataclass(frozen=True)
class CaseMix:
    """Distributions from which a hospital's number of patients and mix of classes are drawn."""

    class_alpha: float = 2.0  # Dirichlet concentration per class; small: each site sees few classes
    class_share: tuple[float, ...] = ()  # over all sites, one for each class
    patients_mean: float = 40.0
    patients_sigma: float = 1.0  # of the log of the number of patients
    patients_min: int = 8
    patients_max: int = 200
    patients_total: int = 0  # of all training sites, in proportion to `patients_shares`; 0: each site draws its number
    patients_shares: tuple[int, ...] = ()  # one for each training site; () for equal ones


def draw_mix(mix: CaseMix, key: jax.Array) -> jax.Array:
    """Returns the shares [C] of the classes at one hospital."""
    alpha = len(mix.class_share) * mix.class_alpha * np.asarray(mix.class_share, np.float32)
    return jax.random.dirichlet(key, jnp.asarray(alpha))


def draw_uniform(site: type, mix: CaseMix, key: jax.Array) -> Any:
    """Returns a hospital, a NamedTuple of the kind `site`.

    Its traits are drawn from the ranges of their names in `mix`.
    """
    traits, classes, size = jax.random.split(key, 3)
    names = [name for name in site._fields if name not in ("class_mix", "patients")]  # type: ignore[attr-defined]
    share = jax.random.uniform(traits, (len(names),), jnp.float32)
    drawn = {name: between(getattr(mix, name), share[i]) for i, name in enumerate(names)}
    return site(**drawn, class_mix=draw_mix(mix, classes), patients=draw_patients(mix, size))


def skewed(draw: Callable[[Any, jax.Array], Any], mix: CaseMix) -> Callable[[Any, jax.Array], Any]:
    """Returns what draws a hospital by `draw(mix, key)`, as a function of the label skew `class_alpha` and the key."""
    return lambda class_alpha, key: draw(replace(mix, class_alpha=class_alpha), key)


def draw_patients(mix: CaseMix, key: jax.Array) -> jax.Array:
    """Returns the number of patients, log-normal about its mean and clipped."""
    normal = jax.random.normal(key, (), jnp.float32)
    sigma = mix.patients_sigma
    count = mix.patients_mean * jnp.exp(sigma * normal - 0.5 * sigma * sigma)
    return jnp.clip(jnp.round(count), mix.patients_min, mix.patients_max).astype(jnp.int32)


def given_patients(mix: CaseMix, clients: int) -> np.ndarray:
    """Returns the numbers of patients of the training sites, int32 [N]; DRAWN where the settings do not give them."""
    if not mix.patients_total:
        return np.full(clients, DRAWN, np.int32)
    return apportion(np.asarray(mix.patients_shares or (1,) * clients), mix.patients_total).astype(np.int32)


def diagnose(site: Any, key: jax.Array) -> jax.Array:
    """Returns the patient's class, int32, from the `class_mix` of a site."""
    return jax.random.categorical(jax.random.fold_in(key, 0), jnp.log(site.class_mix)).astype(jnp.int32)


def between(limits: Range | jax.Array, share: jax.Array) -> jax.Array:
    """Returns the value `share` of the way from the lower limit to the upper."""
    return limits[0] + (limits[1] - limits[0]) * share
