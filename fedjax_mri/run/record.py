"""A finished run in memory: what `results` reads and `report` draws."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.data.contract import Table
from fedjax_mri.metrics.classification import Tally


class TestResult(NamedTuple):
    """What a model did on one test set of M clients and n examples, C classes."""

    tally: Tally  # NumPy, leading axis M
    probabilities: np.ndarray  # float [n, C]
    labels: np.ndarray  # int [n]
    client: np.ndarray  # int [n], 0..M-1
    samples: np.ndarray = np.zeros((0, 1, 1))  # uint8, or float 0..1: [s, H, W] or [s, H, W, C]
    sample_labels: np.ndarray = np.zeros(0, int)  # [s]
    sample_probabilities: np.ndarray = np.zeros((0, 1))  # float [s, C]


class RunRecord(NamedTuple):
    """All that the report says about one run."""

    name: str
    config: dict[str, Any]  # resolved, nested
    environment: dict[str, Any]  # versions, git, device, plan, command
    history: list[dict[str, float]]  # a dict per segment: round, useful_share, "train/nll", "<test set>/accuracy"
    classes: tuple[str, ...]
    labels: np.ndarray  # int [N, C], training examples per client and class
    tables: Sequence[Table]  # from the source
    warnings: Sequence[str]
    tests: dict[str, TestResult]
    timings: dict[str, float]  # seconds by kind of work: compile, train, evaluate, ...
    synthetic: bool  # then the report says so beside every figure
    # of a run that translates, and so has no `tests`:
    kept: Mapping[str, Mapping[str, np.ndarray]] = MappingProxyType({})  # test set -> fields [n, ...]; "client" [n]
    shown: Mapping[str, np.ndarray] = MappingProxyType({})  # fields [s, ...] of a few examples
    # of a run that explains: rounds [R], truth [s], image and mask [s, S, S], chance [R, s], "map/METHOD" [R, s, S, S]
    explained: Mapping[str, np.ndarray] = MappingProxyType({})
