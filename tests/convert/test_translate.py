"""A run folder as a translator: the server's model, clients' own, and runs that cannot translate."""

import pathlib
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from fedjax_mri.cli import commands as cli
from fedjax_mri.convert.translate import DRAWS, translate
from fedjax_mri.core import disk, trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import ClientData, DataDescription
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.localonly import LocalOnly
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import State, init_state
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.nets.unit import ScalesSettings, UNITSettings
from fedjax_mri.run import config as configs
from fedjax_mri.run import runfolder
from fedjax_mri.run.assemble import assemble
from fedjax_mri.run.checkpoint import Checkpoints
from fedjax_mri.run.config import Experiment
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.cyclegan import CycleGAN
from fedjax_mri.tasks.pix2pix import Pix2Pix
from fedjax_mri.tasks.unit import UNIT

SIZE, CLIENTS = 24, 3
TASK = CycleGAN(GeneratorSettings(2, 1), PatchGANSettings(2, 1), (-1.0, 1.0), pool=2, discriminators="local")
CONFIG = Experiment(Phantom(), name="tiny", task=TASK, sampling=Uniform(1), plan=Plan(conv="direct", devices=1))


def saved(run: pathlib.Path, config: Experiment, channels: int = 1) -> State:
    """A run folder of random numbers, in which the first two clients have trained."""
    run.mkdir()
    described = DataDescription((SIZE, SIZE, channels), ("a", "b"), CLIENTS)
    disk.write_json(run / "config.json", configs.to_dict(config))
    disk.write_json(run / "run.json", {"name": config.name, **described._asdict()})
    nobody = ClientData(np.ones(CLIENTS, np.int32), (), lambda store, client, indices: {})
    sim = assemble(config, described, nobody, config.plan.resolve())
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda key: init_state(sim, key), jax.random.key(0))
    state = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)
    state = state._replace(clients=state.clients._replace(rounds=np.array([1, 1, 0], np.int32)))
    Checkpoints(run).save(1, state)
    return state


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 1)).astype(np.float32)


def applied(params: dict, scan: np.ndarray, to: str) -> np.ndarray:
    """By the network alone, which sees CT as it is and MR in -1..1."""
    generator = TASK.generator.build((SIZE, SIZE, 1), Compute("direct"))
    seen = scan if to == "mr" else 2 * np.clip(scan, 0, 1) - 1
    made = np.asarray(jax.jit(lambda params, scan: generator.apply(params, {}, scan)[0])(params, seen))
    return (made + 1) / 2 if to == "mr" else made


def test_a_shared_model_translates_both_ways_and_has_no_draws(tmp_path, scan) -> None:
    """Discriminators and image pools that clients keep, and differ in, are no ensemble."""
    state = saved(tmp_path / "run", replace(CONFIG, algorithm=FedAvg()))
    found = translate(tmp_path / "run", "mr")
    assert (found.image, found.name, found.samples) == ((SIZE, SIZE, 1), "tiny", 0)
    generators = state.server.model.params["generator"]
    for to in ("ct", "mr"):
        np.testing.assert_allclose(found.draw(to, scan, None), applied(generators[to], scan, to), atol=1e-5)
    Image.fromarray(np.full((12, 9), 100, np.uint8)).save(tmp_path / "ct.png")
    words = ["convert", str(tmp_path / "run"), str(tmp_path / "ct.png"), "--to", "mr", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--batch", "2"]) == 0
    assert Image.open(tmp_path / "out" / "ct.png").size == (9, 12)
    assert cli.main([*words, "--samples", "2", "--force"]) == 1


def test_clients_with_models_of_their_own_are_draws(tmp_path, scan) -> None:
    state = saved(tmp_path / "run", replace(CONFIG, algorithm=LocalOnly()))
    found = translate(tmp_path / "run", "mr")
    assert found.samples == 2
    each = state.clients.model.params["generator"]["mr"]
    assert np.abs(found.draw("mr", scan, 0) - found.draw("mr", scan, 1)).mean() > 0.01
    mean = jax.tree.map(lambda leaf: leaf[:2].mean(0), each)
    for sample, params in ((0, trees.take(each, 0)), (1, trees.take(each, 1)), (None, mean)):
        np.testing.assert_allclose(found.draw("mr", scan, sample), applied(params, scan, "mr"), atol=1e-5)


@pytest.mark.parametrize(
    ("task", "draws"),
    [
        (Pix2Pix(generator=UNetSettings(2, 4, "instance"), discriminator=PatchGANSettings(2, 1)), DRAWS),
        (Pix2Pix(generator=UNetSettings(2, 4, "instance", dropout=0.0), discriminator=PatchGANSettings(2, 1)), 0),
        (UNIT(UNITSettings(2, 1), ScalesSettings(2, 1, 2)), DRAWS),
        (replace(TASK, generator=UNetSettings(2, 4, "instance")), DRAWS),
    ],
)
def test_a_network_s_noise_makes_draws(task, draws, tmp_path, scan) -> None:
    saved(tmp_path / "run", replace(CONFIG, task=replace(task, window=(-1.0, 1.0)), algorithm=FedAvg()))
    found = translate(tmp_path / "run", "mr")
    assert found.samples == draws
    plain, first, again, second = (found.draw("mr", scan, sample) for sample in (None, 0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.abs(first - second).mean() > 1e-4) == (np.abs(first - plain).mean() > 1e-4) == bool(draws)


def test_runs_that_cannot_translate_are_named(tmp_path) -> None:
    saved(tmp_path / "classes", replace(CONFIG, task=Classify()))
    with pytest.raises(UserError, match="its task, Classify, makes no MR: give a run that translates"):
        translate(tmp_path / "classes", "mr")
    saved(tmp_path / "colour", CONFIG, channels=3)
    with pytest.raises(UserError, match="its images have 3 channels"):
        translate(tmp_path / "colour", "mr")
    with pytest.raises(UserError, match="nothing"):
        translate(tmp_path / "nothing", "mr")


def test_what_it_was_trained_with_may_be_gone(tmp_path, scan) -> None:
    saved(tmp_path / "run", CONFIG)
    found = translate(tmp_path / "run", "mr").draw("mr", scan, None)
    sections = runfolder.read_json(tmp_path / "run" / "config.json")
    gone = {name: {"class": "a_module.that_is_gone"} for name in ("sampling", "conditions", "local")}
    disk.write_json(tmp_path / "run" / "config.json", sections | gone)
    np.testing.assert_array_equal(translate(tmp_path / "run", "mr").draw("mr", scan, None), found)
