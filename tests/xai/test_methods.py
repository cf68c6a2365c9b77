"""What holds for all methods: maps of the images' size, which change with the weights; one compiled for all clients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from fedjax_mri.core.errors import UserError
from fedjax_mri.xai.method import compiled
from fedjax_mri.xai.methods import METHODS, settings

LESS = {
    "smoothgrad": {"samples": 2},
    "ig": {"steps": 2},
    "occlusion": {"side": 0.25},
    "kernelshap": {"samples": 14, "across": 2, "parts": "grid"},
    "shapley": {"orders": 1, "across": 2, "parts": "grid"},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_map_is_finite_and_depends_on_the_weights(name) -> None:
    """The model randomisation test of Adebayo et al. 2018: methods that only find edges fail it."""
    method = compiled(replace(settings(name), **LESS.get(name, {})).build(), toys.apply)
    inputs = toys.images(), jnp.array([0, 2]), jax.random.key(0)
    learnt, random = (np.asarray(method(toys.params(seed), *inputs)) for seed in (0, 1))
    assert learnt.shape == (2, 8, 8) and learnt.dtype == np.float32
    assert np.isfinite(learnt).all() and learnt.std() > 0
    assert np.corrcoef(learnt.ravel(), random.ravel())[0, 1] < 0.9


def test_all_clients_models_are_explained_at_once() -> None:
    method = compiled(settings("lrp").build(), toys.apply)
    inputs = toys.images(), jnp.array([0, 2]), jax.random.key(0)
    clients = [toys.params(seed) for seed in range(3)]
    together = jax.vmap(method, (0, None, None, None))(jax.tree.map(lambda *p: jnp.stack(p), *clients), *inputs)
    for client, found in zip(clients, together):
        np.testing.assert_allclose(found, method(client, *inputs), rtol=1e-3, atol=1e-5)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match="method=gradcam2: give one of gradcam, "):
        settings("gradcam2")
