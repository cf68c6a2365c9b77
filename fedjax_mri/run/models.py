"""The models of a restored run: the global one, and those of clients that keep a part for themselves."""

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


def global_model(restored: Restored) -> Model:
    """Returns the model for a site that took no part: the server's, completed by the mean of clients' own parts."""
    state, task = restored.state, restored.task
    no_client = np.array([-1], np.int32)
    pick = evaluate.client_parts if restored.plan.clients == "host" else jax.jit(evaluate.client_parts)
    part = trees.take(pick(state.clients, no_client), jnp.int32(0))
    if task.unseen_client_model is not None:
        part = evaluate.personal_part(task, state.server.model, part, jnp.int32(-1))
    return jax.device_put(trees.join(state.server.model, part))


def client_models(restored: Restored, batch: Batch) -> list[Model]:
    """Returns the models of all clients that have trained, on the host; none where they predict as the server's does.

    `batch` is any that `predict` takes.
    """
    state = restored.state
    trained = np.flatnonzero(np.asarray(state.clients.rounds))
    if restored.algorithm.member is not None:
        many = ensemble.client_models(restored.algorithm, state)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], many) for i in range(len(trained))]
    if not clients_predict_differently(restored, batch):
        return []
    parts = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), state.clients.model) for i in trained]
    return [trees.join(state.server.model, part) for part in parts]


def clients_predict_differently(restored: Restored, batch: Batch) -> bool:
    """Returns whether `predict` reads what stays with clients.

    An image pool or a discriminator of their own, for one, predicts nothing.
    """
    task = restored.task
    model = jax.eval_shape(task.init, jax.random.key(0))
    program = jax.make_jaxpr(lambda model: task.predict(model.params, model.carry, batch))(model).jaxpr
    read = {id(variable) for step in program.eqns for variable in step.invars} | {id(out) for out in program.outvars}
    travels = jax.tree.leaves(task.shared(model))
    return any(id(leaf) in read for leaf, shared in zip(program.invars, travels, strict=True) if not shared)


def classifier(restored: Restored, run: Path) -> Classifier:
    """Returns the two steps of a run's classifier. Raises UserError where its task has none."""
    steps = restored.task.classifier
    if steps is None:
        kind = type(restored.config.task).__name__
        raise UserError(f"{run}: its task, {kind}, has no scores of classes: give a run that classifies images")
    return steps
