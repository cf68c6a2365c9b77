"""The documentation site builds, its page of configs is that of their headers, and its code runs."""

import os
import pathlib
import re
import subprocess
import sys
from functools import partial

import config_pages
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_mri.cli import commands as cli
from fedjax_mri.nets import attention, dropout, excite, resample
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.layers import Layers

HOME = pathlib.Path(__file__).parent.parent
DOCS = HOME / "docs"
COMMAND = re.compile(r"^fedjax-mri (\w+) (.*)$", re.M)


def code(page: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_the_site_builds_and_each_page_is_on_it(tmp_path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=HOME, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    listed = (HOME / "mkdocs.yml").read_text()
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in listed + "\n", page.name
    assert "load_config" in (tmp_path / "reference" / "index.html").read_text()


def test_the_page_of_configs_is_that_of_their_headers() -> None:
    """`python scripts/config_pages.py` writes it."""
    assert config_pages.PAGE.read_text() == config_pages.page()


@pytest.mark.parametrize("page", ["configs.md", "index.md", "network.md", "python.md"])
def test_commands_are_understood(page) -> None:
    commands = COMMAND.findall((DOCS / page).read_text())
    assert commands
    for name, rest in commands:
        words, flags = cli.parser().parse_known_args([name, *rest.split()])
        assert words.command.__name__ == name
        if name == "train" and page == "index.md":
            assert cli.load_experiments(HOME / words.config, flags)


LAYERS = re.findall(r"^\| (`.*?`) \| `(\[.*?\])` \|", (DOCS / "network.md").read_text(), re.M)


@pytest.mark.parametrize(("calls", "shape"), LAYERS)
def test_the_layers_of_the_page_make_what_it_says(calls, shape) -> None:
    names = {"attention": attention, "dropout": dropout, "excite": excite, "resample": resample, "train": True}

    def make(call: str, x: jax.Array, key: jax.Array) -> jax.Array:
        layers = Layers(nnx.Rngs(0), Compute("xla").conv)
        inputs = {"x": x, "t": x.reshape(2, 64, 4), "weight": jnp.ones(2), "mask": jnp.ones((2, 64), bool)}
        return eval(call, {**names, **inputs, "key": key, "layers": layers})

    for call in re.findall("`(.*?)`", calls):
        made = jax.eval_shape(partial(make, call), jnp.zeros((2, 8, 8, 4)), jax.random.key(0))
        assert str(list(made.shape)) == shape


def test_the_page_lists_all_that_layers_make() -> None:
    made = {name for name in vars(Layers) if not name.startswith("_") and name not in (*Layers._fields, "kernel")}
    assert set(re.findall(r"layers\.(\w+)\(", " ".join(calls for calls, _ in LAYERS))) == made


@pytest.mark.parametrize(("number", "kind"), [(0, "SmallSettings"), (1, "LinenSettings")])
def test_the_networks_of_the_page_ignore_padding_drop_in_training_and_update_statistics(number, kind) -> None:
    names: dict = {}
    exec(code("network.md")[number], names)
    net = names[kind]().build((8, 8, 1), 3, Compute("xla"))
    params, statistics = net.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    other = x.at[3].set(100.0)
    scores, after = net.apply(params, statistics, x, weight, True, None if number == 0 else jax.random.key(2))
    same, as_after = net.apply(params, statistics, other, weight, True, None if number == 0 else jax.random.key(2))
    assert scores.shape == (4, 3)
    np.testing.assert_allclose(scores[:3], same[:3], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after, as_after)
    dropped, _ = net.apply(params, statistics, x, weight, True, jax.random.key(3))
    assert np.abs(dropped[:3] - scores[:3]).max() > 1e-4
    if number == 1:
        assert all(np.abs(a - b).max() > 0 for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(statistics)))


def test_the_page_on_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys) -> None:
    page = (DOCS / "python.md").read_text().replace("configs/synthetic.py", str(HOME / "configs" / "synthetic.py"))
    examples = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for example in examples[:5]:
        exec(example, names)
    assert names["probabilities"].shape == (8, 10)
    np.testing.assert_allclose(names["probabilities"].sum(1), 1, rtol=1e-5)
    assert [step for step, _ in names["tracker"].logged] == [1, 2, 3]
    assert "held-out/accuracy" in names["tracker"].logged[0][1]
    assert re.search(r"FedProx\(mu=1.0\) 0\.\d+", capsys.readouterr().out)
    pytest.importorskip("iree.compiler")
    assert cli.main(["export", str(names["run"].folder), "--out", "model", "--batch", "8"]) == 0
    before = names["probabilities"]
    exec(examples[5], names)
    np.testing.assert_allclose(names["probabilities"], before, rtol=1e-3, atol=1e-5)
