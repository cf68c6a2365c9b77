"""A saved model needs neither the sampler, nor the conditions, nor the local training that it came from."""

import json
import pathlib
import shutil
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from tiny import Grey

from fedjax_mri.cli import commands as cli
from fedjax_mri.core.errors import UserError
from fedjax_mri.explain import model
from fedjax_mri.fed.algorithms.ditto import Ditto
from fedjax_mri.fed.algorithms.fedbuff import FedBuff
from fedjax_mri.fed.algorithms.oneshot import OneShot
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import init_state
from fedjax_mri.fed.sampling import Everyone, Trace
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run import experiment, restore, runfolder
from fedjax_mri.run.assemble import assemble, describe
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

CONFIG = Experiment(
    Grey(),
    task=Classify(network=CNNSettings(widths=(4,), hidden=8, norm="batch"), statistics="local"),
    local=LocalTraining(batch=4, learning_rate=0.01),
    rounds=1,
    plan=Plan(devices=1, lanes=2, conv="gemm", tune_s=0),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A finished run that was sampled by a trace file which is there no more."""
    home = tmp_path_factory.mktemp("restore")
    np.save(home / "trace.npy", np.ones((2, 5), bool))
    config = replace(CONFIG, sampling=Trace(cohort=3, path=str(home / "trace.npy")))
    experiment.run(config, home / "run", say=lambda line: None)
    (home / "trace.npy").unlink()
    with pytest.raises(UserError, match=r"trace\.npy: cannot be read"):
        federation = config.data.build(0)
        assemble(config, describe(federation), federation.train, config.plan.resolve())
    return home / "run"


@pytest.fixture(params=["the trace is gone", "the classes are gone"])
def orphan(request, run, tmp_path) -> pathlib.Path:
    """That run, and the same when no class of its sampling, conditions and local training can be imported."""
    if request.param == "the trace is gone":
        return run
    copy = pathlib.Path(shutil.copytree(run, tmp_path / "orphan"))
    sections = json.loads((copy / "config.json").read_text())
    gone = {name: {"class": "a_module.that_is_gone", "cohort": 3} for name in ("sampling", "conditions", "local")}
    (copy / "config.json").write_text(json.dumps(sections | gone))
    return copy


def test_it_is_evaluated(orphan, capsys) -> None:
    assert cli.main(["evaluate", str(orphan)]) == 0
    accuracy = runfolder.read_history(orphan)[-1]["new sites/accuracy"]
    assert f"new sites: accuracy {accuracy:.4f}" in capsys.readouterr().out
    assert restore.read_model_config(orphan).data == CONFIG.data  # what flags of the command change


def test_it_is_a_classifier_to_be_explained(orphan) -> None:
    classifier = model.load([orphan])
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    logits = np.asarray(classifier.predict(classifier.models, classifier.preprocess(images)))
    assert logits.shape == (2, 2) and np.isfinite(logits).all()


@pytest.mark.parametrize("algorithm", [Scaffold(), OneShot(), FedBuff()], ids=lambda one: type(one).__name__)
def test_its_state_has_the_shapes_of_a_whole_simulation_s(algorithm) -> None:
    config = replace(CONFIG, sampling=Everyone(), algorithm=algorithm, uplink=UplinkSettings(clip=1.0))
    federation = config.data.build(0)
    sim = assemble(config, describe(federation), federation.train, config.plan.resolve())
    wanted = jax.eval_shape(partial(init_state, sim), jax.random.key(0))
    assert restore.state_shapes(sim.task, sim.algorithm, config.uplink.build(), 5) == wanted


def test_a_run_of_ditto_is_explained_with_one_model_of_the_pair() -> None:
    """A site that took no part is classified by the shared model, as the task's prediction does it."""
    federation = CONFIG.data.build(0)
    config = replace(CONFIG, sampling=Everyone(), algorithm=Ditto())
    task = assemble(config, describe(federation), federation.train, config.plan.resolve()).task
    model = task.unseen_client_model(jax.jit(task.init)(jax.random.key(0)))
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    logits = jax.jit(lambda model, x: task.classifier.predict_logits(*model, task.classifier.preprocess(x)))(
        model, images
    )
    batch = {"image": images, "label": np.zeros(2, np.int32), "weight": np.ones(2, np.float32)}
    np.testing.assert_allclose(jax.nn.softmax(logits), jax.jit(task.predict)(*model, batch), rtol=1e-5)
