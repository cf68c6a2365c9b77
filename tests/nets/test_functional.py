"""A network of a user's own: the example of the documentation, and state that cannot be averaged over clients."""

import pathlib
import re
import runpy
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from described import described
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import functional
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.task import Model, Task, check_shared, everything

PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "classification.md"


def build(network) -> Task:
    return Classify(network=network).build(described((8, 8, 1), 3), Compute())


def test_the_example_of_the_documentation_has_parameters_statistics_and_dropout(tmp_path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "small.py").write_text(code)
    settings = runpy.run_path(str(tmp_path / "small.py"))["SmallSettings"]()
    net = settings.build((8, 8, 1), 3, Compute())
    params, carry = jax.jit(net.init)(jax.random.key(0))
    assert set(params) == {"conv", "norm", "logits"} and set(carry) == {"norm"}
    x, present = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1)), jnp.ones(4)
    apply = jax.jit(lambda key: net.apply(params, carry, x, present, True, key)[0])
    outputs = [apply(key) for key in (None, None, *jax.random.split(jax.random.key(2)))]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[2] - outputs[3]).max() > 1e-3
    check_shared(build(settings))


class Dropping(nnx.Module):
    """Dropout as the documentation of Flax has it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.logits, self.drop = nnx.Linear(64, 3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        return self.logits(self.drop(x.reshape(x.shape[0], -1), deterministic=not train))


@dataclass(frozen=True)
class DroppingSettings:
    """Its settings."""

    def build(self, image, classes, compute):
        return functional(lambda layers: Dropping(layers.rngs), compute)


def test_random_state_in_a_network_is_refused_with_what_to_do() -> None:
    says = r"network Dropping: drop.rngs.count is random state.*nets.dropout.dropout\(x, rate, key\)"
    with pytest.raises(UserError, match=says):
        build(DroppingSettings())


@pytest.mark.parametrize("state", [jnp.int32(0), jax.random.key(0), jnp.ones(2, bool)], ids=str)
def test_what_is_no_number_to_average_may_stay_but_not_travel(state: jax.Array) -> None:
    """A counter, a key or a flag beside statistics."""
    task = build(LinearSettings())
    own = task._replace(init=lambda key: Model(task.init(key).params, {"mine": state}), shared=everything)
    with pytest.raises(UserError, match=r"task: carry.mine is .* and cannot be averaged over clients"):
        check_shared(own)
    check_shared(own._replace(shared=lambda model: Model(everything(model.params), {"mine": False})))
