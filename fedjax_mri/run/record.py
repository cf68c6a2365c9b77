"""A finished run in memory: what `results` reads from its folder, and what reports and explanations are made of."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.data.contract import Table
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.metrics.outliers import Gaussians
from fedjax_mri.run.line import LogEntry


class Examples(NamedTuple):
    """A few test examples of a classifier, for people to look at."""

    image: np.ndarray  # uint8, or float 0..1: [s, H, W] or [s, H, W, C]
    truth: np.ndarray  # int [s]
    probabilities: np.ndarray  # float [s, C]
    mask: np.ndarray | None = None  # float 0..1 [s, H, W, 1], the true lesions where they are known


class TestResult(NamedTuple):
    """What a classifier did on one test set of M clients and n examples, C classes."""

    tally: Tally  # NumPy, leading axis M
    probabilities: np.ndarray  # float [n, C]
    labels: np.ndarray  # int [n]
    client: np.ndarray  # int [n], 0..M-1
    owner: np.ndarray | None = None  # int [M], each client's training client or -1; None in old runs
    examples: Examples | None = None  # of one test set alone


class TranslatedExamples(NamedTuple):
    """A few test patients of a translator, by modality "ct" or "mr": images float 0..1 [s, H, W, 1]."""

    true: Mapping[str, np.ndarray]
    made: Mapping[str, np.ndarray]  # from the other modality
    back: Mapping[str, np.ndarray]  # from what was made of it; empty where the model makes one modality alone


class MadeImages(NamedTuple):
    """What is kept of the images of one modality that a translator made on one test set of n examples."""

    ssim: np.ndarray  # float [n]
    made_features: np.ndarray  # float [n, d], of the images made
    true_features: np.ndarray  # float [n, d], of the true ones


class TranslationResult(NamedTuple):
    """What a translator did on one test set of M clients and n examples."""

    client: np.ndarray  # int [n], 0..M-1
    made: Mapping[str, MadeImages]  # by the modality made, "ct" or "mr"


class Explained(NamedTuple):
    """A few test examples explained at each of R states that a run has kept; the target is the true class."""

    rounds: np.ndarray  # int [R], of the states
    truth: np.ndarray  # int [s]
    image: np.ndarray  # float [s, S, S], as the network saw it
    truth_probability: np.ndarray  # float [R, s], of the true class
    maps: Mapping[str, np.ndarray]  # method -> float [R, s, S, S]
    mask: np.ndarray | None = None  # float [s, S, S], the true lesions where they are known


class Reference(NamedTuple):
    """What a classifier's run keeps of its images, by kind of description: features, appearance, ..."""

    gaussians: Mapping[str, Gaussians]  # of training images
    distances: Mapping[str, np.ndarray]  # float [m], of the m validation images from these


class Selection(NamedTuple):
    """How often the server's rule took nothing of the update of each of N training clients."""

    rounds: np.ndarray  # int [N], in which it trained
    left_out: np.ndarray  # int [N], of these
    attacks: np.ndarray  # bool [N], whether it was told to attack


class RunRecord(NamedTuple):
    """All that the report says about one run."""

    name: str
    config: dict[str, Any]  # resolved, nested
    environment: dict[str, Any]  # versions, git, device, plan, command
    history: list[LogEntry]  # one a segment, and one before the first
    classes: tuple[str, ...]
    labels: np.ndarray  # int [N, C], training examples per client and class
    tables: Sequence[Table]  # from the source
    warnings: Sequence[str]
    timings: dict[str, float]  # seconds by kind of work: compile, train, evaluate, ...
    synthetic: bool  # then the report says so beside every figure
    tests: Mapping[str, TestResult] = MappingProxyType({})  # of a run that classifies
    translations: Mapping[str, TranslationResult] = MappingProxyType({})  # of a run that translates
    translated_examples: TranslatedExamples | None = None  # of a run that translates
    groups: Mapping[str, np.ndarray] = MappingProxyType({})  # "field strength" -> str [N], each training client's
    explained: Explained | None = None
    selection: Selection | None = None  # None: the rule takes something of each update, or does not say
