"""The code of docs/architecture.md runs, and the commands of the README exist."""

import pathlib
import re
import runpy
import textwrap
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_mri.cli import arguments
from fedjax_mri.cli import commands as cli
from fedjax_mri.compile import machines
from fedjax_mri.core import trees
from fedjax_mri.deploy import site
from fedjax_mri.explain.command import Settings
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.engine import evaluate, segments
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import Simulation, initial_state
from fedjax_mri.fed.sampling import Everyone, Population
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.run import config, parts
from fedjax_mri.run.assemble import build_method, describe
from fedjax_mri.serve.settings import Settings as ServeSettings

HOME = pathlib.Path(__file__).parent.parent
TASK, ALGORITHM, *_, SOURCE = re.findall(r"```python\n(.*?)```", (HOME / "docs" / "architecture.md").read_text(), re.S)


def run(code: str, tmp_path: pathlib.Path) -> dict:
    path = tmp_path / "snippet.py"
    path.write_text(code)
    return runpy.run_path(str(path))


def test_a_task_a_source_and_an_algorithm_of_one_s_own_work_together(tmp_path) -> None:
    federation = run(SOURCE, tmp_path)["Stripes"](clients=3).build(0)
    described = describe(federation)
    assert described.image == (8, 8, 1) and described.spacing == (1.0, 1.0)
    task = run(TASK, tmp_path)["Brightness"]().build(described, Compute())
    plan, root = Plan(devices=2, lanes=2).resolve(), jax.random.key(0)
    local = Local(2, 4, optax.sgd, lambda round: jnp.float32(0.1))

    def moved(algorithm) -> tuple[float, float]:
        chain = UplinkSettings().build()
        sim = Simulation(
            task, algorithm, chain, Everyone().build(Population(federation.train.sizes)), local, federation.train
        )
        before = initial_state(sim, plan, root)
        start = jax.tree.map(jnp.copy, before.server.model)
        state, *_ = segments.build(sim, plan, root, 5)(before, 5)
        judged = evaluate.build(task, plan, federation.tests)(state)["the same"]
        error = task.summary(jax.tree.map(lambda x: x.sum(0), judged.metrics))["mse"]
        return float(trees.norm(trees.subtract(state.server.model, start))), error

    fedprox = run(ALGORITHM, tmp_path)["fedprox"]
    free, error = moved(FedAvg().build())
    assert error < 0.2 and free > 0.1
    np.testing.assert_allclose(moved(fedprox(0.0)), (free, error), rtol=1e-5)
    assert moved(fedprox(5.0))[0] < 0.9 * free


def test_the_code_of_the_page_on_explanation_explains_each_client_s_model() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (HOME / "docs" / "explanation.md").read_text(), re.S)
    net = CNNSettings(widths=(4,), norm="none").build((8, 8, 1), 3, Compute("xla"))
    params, carry = net.init(jax.random.key(0))
    x, target = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1)), jnp.array([0, 2], jnp.int32)
    names = {"jax": jax, "jnp": jnp, "net": net, "params": params, "carry": carry, "x": x, "target": target}
    names |= {"key": jax.random.key(2), "stacked_params": jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params)}
    exec(code, names)
    assert names["maps"].shape == (2, 8, 8) and names["of_clients"].shape == (2, 2, 8, 8)
    np.testing.assert_allclose(names["of_clients"][0], names["maps"], rtol=1e-4, atol=1e-6)
    assert np.abs(names["of_clients"][1] - names["maps"]).max() > 1e-3


COMMAND = re.compile(r"^(?:\.venv/bin/)?fedjax-mri (\w+)(.*)$", re.M)
COMMANDS = COMMAND.findall((HOME / "README.md").read_text())
EXPLAINING = COMMAND.findall((HOME / "docs" / "explanation.md").read_text())


def test_the_readme_shows_commands() -> None:
    assert {name for name, _ in COMMANDS} == {"train", "evaluate", "show", "sweep", "explain", "doctor"}


def test_every_command_is_shown_on_a_page() -> None:
    shown = {name for page in (HOME / "docs").glob("*.md") for name, _ in COMMAND.findall(page.read_text())}
    indented = re.compile(r"fedjax-mri (\w+)")
    shown |= {name for page in (HOME / "docs").glob("*.md") for name in indented.findall(page.read_text())}
    assert set(arguments.COMMANDS) <= shown


@pytest.mark.parametrize(("name", "rest"), COMMANDS + EXPLAINING)
def test_commands_of_the_readme_are_understood(name, rest) -> None:
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert words.command.__name__ == name
    if (name, rest) in EXPLAINING and name in ("explain", "train"):
        config.override(Settings() if name == "explain" else config.load(HOME / words.config)[""], flags)


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", (HOME / "README.md").read_text(), re.M))
def test_make_targets_of_the_readme_exist(target) -> None:
    assert re.search(rf"^{target}:", (HOME / "Makefile").read_text(), re.M)


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", (HOME / "README.md").read_text()):
        assert link.startswith("http") or (HOME / link).exists(), link


SCALING = re.findall(r"^fedjax-mri (\w+) (.*)$", (HOME / "docs" / "scaling.md").read_text(), re.M)


@pytest.mark.parametrize(("name", "rest"), SCALING)
def test_commands_of_the_page_on_scaling_are_understood(name, rest) -> None:
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert words.command.__name__ == name and cli.load_experiments(HOME / words.config, flags)
    if name in ("show", "compile"):
        assert machines.parse(words.machine)


DIAGNOSIS = re.findall(r"^fedjax-mri (\w+) (.*)$", (HOME / "docs" / "diagnosis.md").read_text(), re.M)


@pytest.mark.parametrize(("name", "rest"), DIAGNOSIS)
def test_commands_of_the_page_on_diagnosis_are_understood(name, rest) -> None:
    """With their flags, where they train."""
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert words.command.__name__ == name
    if name == "train":
        assert cli.load_experiments(HOME / words.config, flags, words.only)


CLASSIFICATION = COMMAND.findall((HOME / "docs" / "classification.md").read_text())


@pytest.mark.parametrize(("name", "rest"), CLASSIFICATION)
def test_commands_of_the_page_on_classification_are_understood(name, rest) -> None:
    """With their flags, where they train."""
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert words.command.__name__ == name
    if name == "train":
        assert cli.load_experiments(HOME / words.config, flags, words.only)


PRIVATE = re.findall(
    r"^ *fedjax-mri (\w+) (.*)$",
    "".join((HOME / "docs" / f"{page}.md").read_text() for page in ("privacy", "secure")),
    re.M,
)


@pytest.mark.parametrize(("name", "rest"), PRIVATE)
def test_commands_of_the_pages_on_privacy_are_understood(name, rest) -> None:
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert words.command.__name__ == name and cli.load_experiments(HOME / words.config, flags)


DEPLOY = (HOME / "docs" / "deploy.md").read_text()


@pytest.mark.parametrize(("name", "rest"), re.findall(r"^ *fedjax-mri (\w+) (.*)$", DEPLOY, re.M))
def test_commands_of_the_page_on_hospitals_are_understood(name, rest) -> None:
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert words.command.__name__ == name
    assert name == "evaluate" or cli.load_experiments(HOME / words.config, flags)


def test_the_hospital_toml_of_the_page_has_every_field_and_no_mistake() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", DEPLOY, re.S)
    plain = tomllib.loads(textwrap.dedent(block))
    assert site.mistakes(plain) == [] and plain.keys() == vars(site.Site()).keys()


def test_the_code_of_the_page_on_secure_aggregation_adds_up() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (HOME / "docs" / "secure.md").read_text(), re.S)
    names: dict = {}
    exec(code, names)
    np.testing.assert_array_equal(names["total"], np.full(1000, 10))


DATA = re.findall(r"(?:^|`)fedjax-mri (\w+) ([^`\n]+)", (HOME / "docs" / "data.md").read_text(), re.M)


@pytest.mark.parametrize(("name", "rest"), DATA)
def test_commands_of_the_page_on_data_are_understood(name, rest) -> None:
    """With their flags."""
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert name == "train" and cli.load_experiments(HOME / words.config, flags)


ATTACKS = COMMAND.findall((HOME / "docs" / "attacks.md").read_text())


@pytest.mark.parametrize(("name", "rest"), ATTACKS)
def test_commands_of_the_page_on_attacks_are_understood(name, rest) -> None:
    """With their flags, where they train; those of `attack` alone, as it takes no others."""
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert words.command.__name__ == name
    assert cli.load_experiments(HOME / words.config, flags) if name == "train" else not flags


ROBUSTNESS = COMMAND.findall((HOME / "docs" / "robustness.md").read_text())


@pytest.mark.parametrize(("name", "rest"), ROBUSTNESS)
def test_commands_of_the_page_on_robustness_are_understood(name, rest) -> None:
    """With their flags: the attack and every part of the uplink are built."""
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert name == "train"
    assert all(
        build_method(one).uplink for one in cli.load_experiments(HOME / words.config, flags, words.only).values()
    )


def test_the_table_of_rules_names_every_rule_with_what_it_needs() -> None:
    section = (HOME / "docs" / "robustness.md").read_text().split("## Rules")[1].split("###")[0]
    named = {name for cells in re.findall(r"^\| (`[^|]*) \|", section, re.M) for name in re.findall(r"`(\w+)`", cells)}
    known = {name: kind for name, kind in parts.settings("uplink.reduce").items() if name not in ("mean", "exact")}
    assert named == set(known)
    for cells, least in re.findall(r"^\| (`[^|]*) \| n (>=? (?:\d f|0)(?: \+ \d)?) \|", section, re.M):
        for name in re.findall(r"`(\w+)`", cells):
            rule = known[name](**({"faulty": 3} if "faulty" in known[name].__dataclass_fields__ else {})).build().rule
            numbers = [int(number) for number in re.findall(r"\d", least)]
            wanted = 1 if numbers == [0] else 3 * numbers[0] + (numbers[1] if len(numbers) > 1 else 1)
            assert rule.min_updates == wanted, name


COMPRESSION = COMMAND.findall((HOME / "docs" / "compression.md").read_text())


@pytest.mark.parametrize(("name", "rest"), COMPRESSION)
def test_commands_of_the_page_on_compression_are_understood(name, rest) -> None:
    """With their flags, where they train; their parts are built."""
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    assert words.command.__name__ == name
    if name in ("train", "show"):
        for found in cli.load_experiments(HOME / words.config, flags).values():
            assert build_method(found).uplink.stages.parts


SERVING = COMMAND.findall((HOME / "docs" / "serve.md").read_text())


@pytest.mark.parametrize(("name", "rest"), SERVING)
def test_commands_of_the_page_on_serving_are_understood(name, rest) -> None:
    """With their flags; the configs that they name are there."""
    words, flags = cli.parser().parse_known_args([name, *rest.split()])
    config.override(ServeSettings(), flags)
    assert words.command.__name__ == name == "serve" and all((HOME / one).exists() for one in words.config)


def test_the_table_of_limits_of_serving_is_that_of_the_settings() -> None:
    section = (HOME / "docs" / "serve.md").read_text().split("## Limits")[1].split("##")[0]
    named = re.findall(r"`--([\w.-]+)`", section)
    known = {name.replace("_", "-") for name in config.flat(ServeSettings())}
    assert set(named) == known - {"limits"}


@pytest.mark.parametrize(
    "page", ["attacks", "classification", "compression", "data", "diagnosis", "privacy", "reliability", "robustness"]
)
def test_scripts_of_a_page_exist(page) -> None:
    scripts = re.findall(r"^python (\S+)", (HOME / "docs" / f"{page}.md").read_text(), re.M)
    assert scripts and all((HOME / script).exists() for script in scripts)
