"""Perceptual terms by a classifier of ours: its features, taken while another network trains; refusals."""

import pathlib
import shutil
import sys
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_translation_run import CONFIG as TRANSLATION
from tiny import Grey

from fedjax_mri.core.code_digest import digest
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.augment import Preprocess
from fedjax_mri.data.contract import Federation
from fedjax_mri.data.contract import Test as SiteTest
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.translation import PatchGANSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.run import encoder, experiment, prepare, restore, runfolder
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.extras import Extras
from fedjax_mri.tasks.pix2pix import Pix2Pix

CLASSIFIER = Experiment(
    Grey(clients=2),
    task=Classify(network=CNNSettings(widths=(8, 4)), preprocess=Preprocess(size=8)),
    local=LocalTraining(batch=4),
    sampling=Everyone(),
    rounds=1,
    plan=TRANSLATION.plan,
)


@dataclass(frozen=True)
class Pairs:
    """CT and MR of noise, 16 x 16 px, at two hospitals."""

    def build(self, seed: int) -> Federation:
        rng, shape = np.random.default_rng(seed), (8, 16, 16, 1)
        arrays = {
            "ct": rng.uniform(-100, 300, shape).astype(np.float32),
            "mr": rng.random(shape, np.float32),
        }
        data = resident(arrays, np.split(np.arange(8), 2))
        tests = {"the same": SiteTest(data, np.arange(2, dtype=np.int32))}
        counts = np.full((2, 1), 4, np.int32)
        return Federation(data, tests, ("any",), counts, synthetic=True, images=("ct", "mr"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("encoder") / "classifier"
    experiment.run(CLASSIFIER, folder)
    return folder


def test_features_are_what_the_run_s_own_head_is_given(classifier) -> None:
    """The logits are a dense layer on the last of them; a larger image is brought to the classifier's size."""
    x = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))
    found = jax.jit(encoder.of_run(str(classifier)))(x)
    this = restore.restore(classifier)
    model, head = this.state.server.model, this.state.server.model.params["logits"]
    steps = this.task.classifier
    assert [maps.shape for maps in found] == [(3, 8, 8, 8), (3, 4, 4, 8), (3, 4, 4, 4), (3, 2, 2, 4)]
    logits = np.asarray(found[-1]).reshape(3, -1) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    wanted = jax.jit(lambda x: steps.logits(*model, steps.preprocess(x)))(x)
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    wide = jax.eval_shape(encoder.of_run(str(classifier)), jnp.zeros((3, 16, 16, 1)))
    assert [maps.shape for maps in wide] == [maps.shape for maps in found]


def test_a_translation_learns_by_it_and_then_needs_it_no_more(classifier, tmp_path) -> None:
    """Pix2pix, which compiles in a third of a CycleGAN's time; `tasks/test_extras.py` has the terms of both."""
    source = shutil.copytree(classifier, tmp_path / "classifier")
    extras = Extras(perceptual=1.0, encoder_path=str(source))
    task = Pix2Pix("mr", UNetSettings(depth=2, width=4), PatchGANSettings(2, 1), extras=extras)
    config = replace(TRANSLATION, data=Pairs(), task=task, rounds=1, pictures=False, early=Early())
    experiment.run(config, tmp_path / "run")
    line = runfolder.read_history(tmp_path / "run")[-1]
    assert 0 < line["train/perceptual"] < np.inf
    shutil.rmtree(source)
    assert int(restore.restore(tmp_path / "run").state.round) == 1


def test_the_code_of_its_network_is_part_of_what_it_is(classifier, tmp_path, monkeypatch) -> None:
    """So that no program is taken that was traced with another; and the run may not change before it is read."""
    (tmp_path / "a_network.py").write_text("from fedjax_mri.nets import cnn\nclass Mine(cnn.CNNSettings): rate = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = shutil.copytree(classifier, tmp_path / "run")
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace("fedjax_mri.nets.cnn.CNNSettings", "a_network.Mine"))
    before = digest(encoder.of_run(str(run)))
    monkeypatch.setattr(sys.modules["a_network"].Mine, "rate", 2)
    encode = encoder.of_run(str(run))
    assert None is not before != digest(encode)
    del sys.modules["a_network"]
    (run / "config.json").write_text(text)
    with pytest.raises(UserError, match="written anew"):
        encode(jnp.zeros((1, 8, 8, 1)))


def test_what_it_cannot_see_is_refused(classifier, tmp_path) -> None:
    with pytest.raises(UserError, match="encoder_path is empty"):
        prepare.prepare(replace(TRANSLATION, task=replace(TRANSLATION.task, extras=Extras(perceptual=1.0))),
                           tmp_path / "run", print)  # fmt: skip
    for path, channels, says in ((tmp_path, 1, str(tmp_path)), (classifier, 3, "sees 1 channels, images have 3")):
        with pytest.raises(UserError, match=says):
            encoder.of_run(str(path))(jnp.zeros((1, 8, 8, channels)))
