"""The models of a run that is over: that of a site that took no part, and those of clients that keep their own."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.after import ensemble
from fedjax_mri.fed.engine import evaluate
from fedjax_mri.run.restore import Restored
from fedjax_mri.tasks.task import Batch, Classifier, Model


def own(this: Restored) -> Model:
    """The model that a site gets which took no part."""
    state, task = this.state, this.sim.task
    nobody = np.array([-1], np.int32)
    pick = evaluate.own if this.plan.clients == "host" else jax.jit(evaluate.own)
    part = trees.take(pick(state.clients, nobody), jnp.int32(0))
    if task.newcomer is not None:
        part = evaluate.received(task, state.server.model, part, jnp.int32(-1))
    return jax.device_put(trees.join(state.server.model, part))


def clients(this: Restored, batch: Batch) -> list[Model]:
    """The models of all clients that have trained, on the host; none where they predict as the server's does.

    `batch` is any that `predict` takes.
    """
    state = this.state
    trained = np.flatnonzero(np.asarray(state.clients.rounds))
    if this.sim.algorithm.member is not None:
        many = ensemble.members(this.sim, state)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], many) for i in range(len(trained))]
    if not personal(this, batch):
        return []
    parts = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), state.clients.model) for i in trained]
    return [trees.join(state.server.model, part) for part in parts]


def personal(this: Restored, batch: Batch) -> bool:
    """Whether `predict` reads what clients keep: an image pool or a discriminator of their own predicts nothing."""
    task = this.sim.task
    model = jax.eval_shape(task.init, jax.random.key(0))
    program = jax.make_jaxpr(lambda model: task.predict(model.params, model.carry, batch))(model).jaxpr
    read = {id(variable) for step in program.eqns for variable in step.invars} | {id(out) for out in program.outvars}
    travels = jax.tree.leaves(task.shared(model))
    return any(id(leaf) in read for leaf, shared in zip(program.invars, travels, strict=True) if not shared)


def classifier(this: Restored, run: Path) -> Classifier:
    """The task's two steps. Raises UserError where it has none."""
    steps = this.sim.task.classifier
    if steps is None:
        kind = type(this.config.task).__name__
        raise UserError(f"{run}: its task, {kind}, has no scores of classes: give a run that classifies images")
    return steps
