"""The report of one client, four and a thousand: whole, self-contained, escaped, and with the numbers in it."""

import html.parser
import warnings

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from fedjax_mri.data.contract import Table
from fedjax_mri.metrics import classification
from fedjax_mri.report import figures
from fedjax_mri.report import run as report
from fedjax_mri.run.line import parse
from fedjax_mri.run.record import Examples, RunRecord, TestResult

CLASSES = ("no tumour", "<b>glioma</b> & $co", "meningioma", "pituitary")


def result(rng, clients, n):
    """A test set with made-up predictions, about four in five right."""
    labels, client = rng.integers(0, 4, n).astype(np.int32), rng.integers(0, clients, n)
    logits = rng.normal(size=(n, 4)).astype(np.float32) + 2.5 * np.eye(4, dtype=np.float32)[labels]
    probabilities = np.asarray(jax.nn.softmax(logits))
    stacked = jax.vmap(lambda w: classification.tally(logits, labels, w))
    tally = jax.tree.map(np.asarray, stacked(np.float32(client == np.arange(clients)[:, None])))
    images = rng.random((8, 16, 16)).astype(np.float32)
    examples = Examples(images, labels[:8], probabilities[:8])
    return TestResult(tally, probabilities, labels, client, examples=examples)


def record(clients, name="run", seed=0, synthetic=True):
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(4, 1, clients)[:, None]
    history = [
        {
            "round": 5 * i,
            "train/nll": 1.4 * 0.8**i,
            "train/accuracy": 1 - 0.5 * 0.8**i,
            "seconds": 3.2,
            "images_per_second": 54321.0,
            "useful_share": 0.97,
            "unseen patients/nll": 1.5 * 0.82**i,
            "unseen patients/accuracy": 1 - 0.6 * 0.8**i,
            "unseen sites/accuracy": 1 - 0.7 * 0.8**i,
        }
        for i in range(1, 9)
    ]
    return RunRecord(
        name=name,
        config={"seed": 0, "fed": {"rounds": 40, "algorithm": {"name": "fedavg", "lr": 0.001}}, "tags": []},
        environment={"jax": "0.10", "device": "cpu", "command": "fedjax-mri train --name 'a <b>'"},
        history=[parse(line) for line in history],
        classes=CLASSES,
        labels=rng.poisson(sizes * rng.dirichlet([0.5] * 4, clients)),
        tables=[
            Table("Quarantined", ("file", "why"), [(f"a/{i}.dcm", "cut <short>") for i in range(300)], "Left out.")
        ],
        warnings=["12 files are quarantined & left out"],
        tests={"unseen patients": result(rng, clients, 400), "unseen sites": result(rng, max(1, clients // 4), 300)},
        timings={"compile": 12.345, "train": 25.6},
        synthetic=synthetic,
    )


class Page(html.parser.HTMLParser):
    """The text, the addresses, and the tags still open."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.words, self.addresses, self.open, self.tags = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def written(runs, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Page(report.write(runs, tmp_path / "report.html").read_text("utf-8"))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Figures without a line: to draw them takes longest."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: file.write("<svg/>"))


@pytest.mark.parametrize("clients", [1, pytest.param(4, marks=pytest.mark.thorough), 1000])
def test_is_one_whole_file(clients, tmp_path):
    page = written([record(clients)], tmp_path)
    assert page.open == []
    assert all(address.startswith(("#", "data:image/png")) for address in page.addresses)
    assert not {"script", "link", "iframe", "b>glioma<"} & set(page.tags)
    assert page.tags.count("svg") == 2 + 2 * 2 and page.tags.count("img") == 2 * 8


def test_says_the_numbers(tmp_path):
    run = record(4)
    page = written([run], tmp_path)
    pooled = classification.pool(run.tests["unseen sites"].tally)
    auc = classification.macro_auc(run.tests["unseen sites"].probabilities, run.tests["unseen sites"].labels)
    for value in [*classification.summary(pooled).values(), auc]:
        assert f"{value:.3f}" in page.text
    for words in (
        "54,321",
        "compile, seconds 12.3",
        "useful share 0.970",
        "12 files are quarantined & left out",
        "fedavg",
        "The first 200 of 300 rows",
    ):
        assert words in page.text
    assert f"{run.labels.sum():,} examples" in page.text


def test_escapes_what_it_is_told(tmp_path):
    page = written([record(4, name="<i>run</i>")], tmp_path)
    assert CLASSES[1] in page.text and "cut <short>" in page.text and "<i>run</i>" in page.text
    assert "i" not in page.tags


def test_synthetic_data_is_named_as_such(tmp_path, undrawn):
    page = written([record(4)], tmp_path)
    figures = page.tags.count("figure") + page.tags.count("caption") - 3  # time, settings, environment
    assert page.text.count("synthetic data") == figures
    assert "synthetic data" not in written([record(4, synthetic=False)], tmp_path).text


def test_several_runs_are_compared_first(tmp_path, undrawn):
    page = written([record(4, "published split"), record(30, "grouped split", seed=1)], tmp_path)
    assert page.addresses[:2] == ["#run1", "#run2"]
    assert page.tags.count("svg") == 1 + 2 * 6
    assert page.text.index("all runs") < page.text.index("training clients")


def test_a_diverged_run_and_empty_clients_still_report(tmp_path):
    run = record(30)
    first = run.tests["unseen sites"]
    broken = first._replace(
        tally=jax.tree.map(
            lambda x: np.where(np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) < 3, 0, x), first.tally
        ),
        probabilities=np.full_like(first.probabilities, np.nan),
        examples=None,
    )
    page = written([run._replace(history=[], tests={"unseen sites": broken})], tmp_path)
    assert page.open == [] and "img" not in page.tags


def test_a_failure_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(AttributeError):
        report.write([record(4)._replace(tests={"broken": None})], path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_colour_images_and_bytes():
    grey, colour = np.zeros((4, 5, 1), np.float32), np.zeros((4, 5, 3), np.uint8)
    assert all(figures.png(image).startswith("data:image/png;base64,") for image in (grey, colour))
