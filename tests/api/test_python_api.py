"""Training, reading, predicting and reporting from Python, as a notebook does; checked against the run's own files."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import fedjax_mri
from fedjax_mri import Experiment, LocalTraining, Run, Study, load_config, load_study, train, train_study, with_field
from fedjax_mri.api import run as api_run
from fedjax_mri.cli import commands
from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run import doctor, export
from fedjax_mri.run.export import UNITS
from fedjax_mri.study import sweep
from fedjax_mri.tasks.classify import Classify

CONFIG = Experiment(
    name="in python",
    data=Synthetic(clients=4, validation=0.1),
    task=Classify(network=LinearSettings()),
    local=LocalTraining(epochs=1, batch=64, optimizer="optax.sgd", learning_rate=0.01),
    sampling=Uniform(cohort=2),
    rounds=2,
    evaluate_every=1,
    plan=Plan(tune_s=0, devices=1),
    pictures=False,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    lines = list[str]()
    found = train(CONFIG, tmp_path_factory.mktemp("api") / "run", say=lines.append)
    assert any(line.startswith("round 2/2: ") and "held-out/accuracy" in line for line in lines)
    return found


def test_history_holds_the_figures_of_each_evaluation_as_columns(run) -> None:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(run.history["round"], [0, 1, 2])
    np.testing.assert_array_equal(run.history["held-out/nll"], [line["held-out/nll"] for line in lines])
    assert np.isnan(run.history["train/nll"][0]) and run.history["train/nll"][2] == lines[2]["train/nll"]
    assert run.figures["held-out"].pooled["accuracy"] == lines[2]["held-out/accuracy"]
    assert run.config == CONFIG


def test_predictions_are_those_that_the_run_has_kept(run) -> None:
    test = CONFIG.data.build(CONFIG.seed).tests["held-out"].data
    kept = run.record.tests["held-out"]
    client = int(kept.client[0])
    images = test.read(test.store, np.int32(client), np.arange(3, dtype=np.int32))["image"]
    np.testing.assert_allclose(run.predict(image=images), kept.probabilities[:3], rtol=1e-5, atol=1e-6)
    steps = run.classifier()
    logits = np.asarray(steps.logits(run.model, steps.preprocess(images)))
    np.testing.assert_array_equal(logits.argmax(1), kept.probabilities[:3].argmax(1))


def test_sites_and_report_are_those_of_the_commands(run) -> None:
    sites = [row for row in run.sites() if row.test == "held-out" and row.grouping == "site"]
    assert [row.name for row in sites] == [f"site {k}" for k in range(4)]
    pooled = np.average([row.accuracy for row in sites], weights=[row.examples for row in sites])
    assert pooled == pytest.approx(run.figures["held-out"].pooled["accuracy"], abs=1e-5)
    assert "in python" in run.report().read_text()


def test_training_goes_on_where_it_stopped(run) -> None:
    before = run.history
    again = train(CONFIG, run.folder, say=lambda line: None)
    assert again == run
    np.testing.assert_array_equal(again.history["held-out/nll"], before["held-out/nll"])


def test_mistakes_are_one_line(run, tmp_path) -> None:
    images = np.zeros((2, 1, 1, 60), np.float32)
    with pytest.raises(UserError, match="'image'"):
        run.predict(picture=images)
    with pytest.raises(UserError, match="as many examples"):
        run.predict(image=images, label=np.zeros(3, np.int32))
    with pytest.raises(UserError, match="CT"):
        run.translate(images, "mr")
    for bad, words in (
        (np.full((2, 1, 1, 60), np.nan, np.float32), "2 examples are NaN"),
        (np.zeros((2, 60), np.float32), "has the shape"),
        (np.zeros((2, 1, 1, 59), np.float32), "has the shape"),
        (5, "give an array of numbers"),
        (np.array(["a", "b"]), "give an array of numbers"),
    ):
        with pytest.raises(UserError, match=words):
            run.predict(image=bad)
    assert np.asarray(run.predict(image=np.full((2, 1, 1, 60), 200, np.uint8))).shape == (2, 10)
    with pytest.raises(UserError, match="holds no run"):
        Run(str(tmp_path))
    with pytest.raises(UserError, match="is no Study"):
        train_study(CONFIG, tmp_path / "study")


def test_configs_and_studies_are_read_from_files(tmp_path) -> None:
    assert load_config("configs/quickstart.py").rounds == 100
    with pytest.raises(UserError, match="name one of"):
        load_config("configs/classifiers.py")
    assert with_field(CONFIG, "local.learning_rate", 0.5).local.learning_rate == 0.5
    assert isinstance(load_study("studies/scanner_skew.py"), Study)


def test_a_study_gives_its_cells_as_columns(tmp_path) -> None:
    study = Study(replace(CONFIG, rounds=1), {"local.learning_rate": [0.01, 0.1], "seed": [0, 1]})
    results = train_study(study, tmp_path / "study", say=lambda line: None)
    last = results.last()
    np.testing.assert_array_equal(last["local.learning_rate"], [0.01, 0.01, 0.1, 0.1])
    np.testing.assert_array_equal(last["seed"], [0, 1, 0, 1])
    assert len(set(last["held-out/nll"])) == 4 and np.isfinite(last["held-out/nll"]).all()
    bad = replace(study, axes={"local.learning_rate": [-1.0]})
    with pytest.raises(UserError, match="1 of its cells failed"):
        train_study(bad, tmp_path / "bad", say=lambda line: None)


def test_the_package_imports_nothing_heavy_by_itself() -> None:
    code = "import sys, fedjax_mri; print('jax' in sys.modules, fedjax_mri.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", fedjax_mri.__version__]
    assert all(getattr(fedjax_mri, name) for name in fedjax_mri.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        fedjax_mri.tain  # noqa: B018


def test_an_exported_model_runs_in_another_runtime(run, tmp_path) -> None:
    paths = export.export(run.folder, tmp_path / "model", batch=3)
    about = json.loads(paths[2].read_text())
    assert about["inputs"] == [
        {"name": "image", "shape": [3, 1, 1, 60], "dtype": "float32", "units": UNITS["grey"], "modality": "unknown"}
    ]
    assert about["classes"] == list(run.restored.described.classes) and about["outputs"][0]["shape"] == [3, 10]
    tensors = pytest.importorskip("safetensors.numpy").load_file(paths[1])
    for name, value in trees.named(run.model).items():
        np.testing.assert_array_equal(tensors[name], value)
    compiler, runtime = pytest.importorskip("iree.compiler"), pytest.importorskip("iree.runtime")
    binary = compiler.compile_str(paths[0].read_bytes(), input_type="stablehlo", target_backends=["llvm-cpu"])
    module = runtime.load_vm_flatbuffer(binary, driver="local-task")
    images = np.random.default_rng(0).normal(size=(3, 1, 1, 60)).astype(np.float32)
    np.testing.assert_allclose(module.main(images), run.predict(image=images), rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="is there already"):
        export.export(run.folder, tmp_path / "model")
    with pytest.raises(UserError, match="--batch 0"):
        export.export(run.folder, tmp_path / "other", batch=0)


def test_the_doctor_says_what_a_report_needs_and_finds_a_wrong_device(monkeypatch, capsys) -> None:
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "1")
    assert commands.main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("jax ", "memory ", "cache ", "device ", "JAX_ENABLE_COMPILATION_CACHE", "self-test            passed"):
        assert word in said
    monkeypatch.setattr(doctor, "RATE", 0.2)  # what NumPy expects, while the config still has the old one
    assert commands.main(["doctor"]) == 1 and "differs from NumPy by" in capsys.readouterr().out


def test_ctrl_c_is_an_interrupt_and_not_a_finished_run(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(api_run.experiment, "run", lambda *given: signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "run")

    def stopped(*given, **more):
        raise sweep.Stopped(signal.SIGINT)

    monkeypatch.setattr(sweep, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_study(Study(CONFIG, {"seed": [0]}), tmp_path / "study")
