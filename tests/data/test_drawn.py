"""Drawn once: the source's examples, as bytes, client by client."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.drawn import Drawn
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.fed import members

SOURCE = Phantom(clients=3, test_clients=2, test_patients=2, sites=SiteModel(patients_min=2, patients_max=5))


def test_examples_are_the_source_s_own() -> None:
    ours, theirs = Drawn(SOURCE).build(1), SOURCE.build(1)
    np.testing.assert_array_equal(ours.train.sizes, theirs.train.sizes)
    client, index = jnp.int32(1), jnp.arange(2, dtype=jnp.int32)
    kept = ours.train.read(ours.train.store, client, index)
    drawn = jax.jit(theirs.train.read)(theirs.train.store, client, index)
    np.testing.assert_array_equal(kept["label"], drawn["label"])
    np.testing.assert_allclose(np.asarray(kept["image"]) / 255, drawn["image"], atol=0.51 / 255)
    new = ours.tests["seen sites"].data
    assert (np.asarray(new.read(new.store, client, index)["image"]) != np.asarray(kept["image"])).any()
    assert ours.tests["unseen sites"].owner.tolist() == [-1, -1]
    assert members.shape(ours.train) == members.shape(Drawn(SOURCE).build(2).train)
