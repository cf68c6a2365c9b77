"""What a field of a config may hold: every wrong type is one line that names field, value and what is expected."""

import dataclasses
import json
import pathlib
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_mri.core import fields
from fedjax_mri.core.errors import UserError
from fedjax_mri.core.fields import Seed
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.partition import Dirichlet
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.pooled import Pooled
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.fed.after.ensemble import Distil
from fedjax_mri.fed.algorithms.fedbn import FedBN
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run import config as configs
from fedjax_mri.run import group, parts
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.study import study
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.tasks.cyclegan import CycleGAN


@dataclass(frozen=True)
class Mine:
    """A user's source: its fields have annotations of all kinds."""

    values: Any = ()
    folder: pathlib.Path | None = None
    names: list[str] = field(default_factory=list)
    pair: tuple[int, str] = (1, "a")

    def build(self, seed: int) -> None:
        """Builds nothing."""


@dataclass(frozen=True)
class Obscure:
    """A user's source with an annotation that nobody can look up."""

    by: "NowhereDefined" = 3  # noqa: F821
    size: "int" = 3

    def build(self, seed: int) -> None:
        """Builds nothing."""


@dataclass
class Loose:
    """Settings that could be assigned to."""

    def build(self, seed: int) -> None:
        """Builds nothing."""


class Bare:
    """No dataclass."""

    def build(self, seed: int) -> None:
        """Builds nothing."""


@dataclass(frozen=True)
class Unbuildable:
    """Settings of nothing."""


def make(**changes: Any) -> Experiment:
    return Experiment(**{"data": Phantom(), **changes})


REFUSED = {
    "data='imgs': must be settings, not text: choose one of arrays, ": lambda: make(data="imgs"),
    "data=Phantom: must be settings with `build`, of a Source, not a class: write Phantom()": lambda: make(
        data=Phantom
    ),
    "data=Unbuildable(): must be settings with `build`, of a Source; Unbuildable has no `build`": lambda: make(
        data=Unbuildable()
    ),
    "give the class Bare @dataclass(frozen=True)": lambda: make(data=Bare()),
    "give the class @dataclass(frozen=True)": lambda: make(data=Loose()),
    "data.source='imgs': must be settings": lambda: make(data=Pooled("imgs")),
    "data.source.size='big': must be a whole number, not text": lambda: make(data=Pooled(Phantom(size="big"))),
    "algorithm='fedprox': must be settings, not text: give FedProx(), or --fed.algorithm fedprox": lambda: make(
        algorithm="fedprox"
    ),
    "algorithm='magic': must be settings, not text: choose one of": lambda: make(algorithm="magic"),
    "algorithm=FedProx: must be settings with `build`, such as FedAvg(), not a class: write FedProx()": lambda: make(
        algorithm=FedProx
    ),
    "algorithm.base=None: must be settings with `build`, such as FedAvg()": lambda: make(algorithm=FedBN(base=None)),
    "sampling=5: must be settings with `build`, such as Uniform()": lambda: make(sampling=5),
    "task.network='resnet': must be settings, not text: give ResNetSettings(), or": lambda: make(
        task=Classify(network="resnet")
    ),
    'local.optimizer=sgd: must be text, not a function: give its path as text, such as "optax.sgd"': lambda: make(
        local=LocalTraining(optimizer=optax.sgd)
    ),
    "local.learning_rate='0.1': must be a finite number, not text": lambda: make(
        local=LocalTraining(learning_rate="0.1")
    ),
    "local.learning_rate=nan: must be a finite number": lambda: make(local=LocalTraining(learning_rate=float("nan"))),
    "algorithm.server_rate=inf: must be a finite number": lambda: make(algorithm=FedProx(server_rate=float("inf"))),
    "local.epochs=2.5: must be a whole number": lambda: make(local=LocalTraining(epochs=2.5)),
    "rounds=True: must be a whole number": lambda: make(rounds=True),
    "rounds='3': must be a whole number, not text": lambda: make(rounds="3"),
    "rounds=None: must be a whole number": lambda: make(rounds=None),
    "pictures=1: must be True or False": lambda: make(pictures=1),
    "local.schedule='sometimes': must be one of constant, cosine, linear, onecycle": lambda: make(
        local=LocalTraining(schedule="sometimes")
    ),
    "local=FedProx(mu=0.01, server_rate=1.0): must be settings LocalTraining(...)": lambda: make(local=FedProx()),
    "local.rates=(('stem', 'slow'),): must be a tuple of values, each a tuple (text, a finite number)": lambda: make(
        local=LocalTraining(rates=(("stem", "slow"),))
    ),
    "explanations='lrp': must be a tuple of texts, not text": lambda: make(explanations="lrp"),
    "task.network.widths=16: must be a tuple of whole numbers": lambda: make(
        task=Classify(network=CNNSettings(widths=16))
    ),
    "task.window=(0.0,): must be a tuple (a finite number, a finite number) or None": lambda: make(
        task=CycleGAN(window=(0.0,))
    ),
    "data.partition=3: must be settings IID(...) or settings Sizes(...)": lambda: make(data=Folder("x", partition=3)),
    "data.partition.alpha='low': must be a finite number, not text": lambda: make(
        data=Folder("x", partition=Dirichlet(3, "low"))
    ),
    "data.values=uint8 [5, 8, 8]: must be plain data: numbers, text, True, False, None, settings, or tuples of these, "
    "not an array: make or read arrays in `build`": lambda: make(data=Mine(values=np.zeros((5, 8, 8), np.uint8))),
    "data.values={'a': 1}: must be plain data: numbers, text, True, False, None, settings, or tuples of these, "
    "not a dict: give a tuple of pairs, or settings": lambda: make(data=Mine(values={"a": 1})),
    "data.pair=('a', 1): must be a tuple (a whole number, text)": lambda: make(data=Mine(pair=("a", 1))),
    "data.size='3': must be a whole number, not text": lambda: make(data=Obscure(size="3")),
    "seed=-1: must be a whole number from 0 to 4294967295": lambda: make(seed=-1),
    "seed=4294967296: must be a whole number from 0 to 4294967295": lambda: make(seed=2**32),
    "distil.epochs='3': must be a whole number, not text": lambda: Distil(epochs="3"),
    "early.patience='3': must be a whole number, not text": lambda: Early(patience="3"),
    "distil.source='imgs': must be settings with `build`, of a Source or None, not text": lambda: Distil(source="imgs"),
    "local.learning_rate='x': must be": lambda: configs.with_field(make(), "local.learning_rate", "x"),
}


@pytest.mark.parametrize("says", REFUSED)
def test_a_value_of_a_wrong_type_is_one_line(says) -> None:
    with pytest.raises(UserError) as error:
        REFUSED[says]()
    assert says in str(error.value) and "\n" not in str(error.value)


TAKEN = [
    (lambda: make(local=LocalTraining(learning_rate=np.float32(0.5))).local.learning_rate, 0.5),
    (lambda: make(local=LocalTraining(learning_rate=1)).local.learning_rate, 1),
    (lambda: make(local=LocalTraining(learning_rate=jnp.float32(0.5))).local.learning_rate, 0.5),
    (lambda: make(rounds=np.int64(7)).rounds, 7),
    (lambda: make(seed=2**32 - 1).seed, 2**32 - 1),
    (lambda: make(pictures=np.bool_(True)).pictures, True),
    (lambda: make(explanations=["lrp"]).explanations, ("lrp",)),
    (lambda: make(task=Classify(network=CNNSettings(widths=[8, 16]))).task.network.widths, (8, 16)),
    (lambda: make(local=LocalTraining(rates=[["stem", 0.5]])).local.rates, (("stem", 0.5),)),
    (lambda: make(data=Folder(pathlib.Path("x"))).data.root, "x"),
    (lambda: make(data=Precomputed(Phantom(), ["image"])).data.fields, ("image",)),
    (lambda: make(data=Mine(values=[1, ["a", None]])).data.values, (1, ("a", None))),
    (lambda: make(data=Mine(names=["a"])).data.names, ("a",)),
    (lambda: make(data=Obscure(by="anything")).data.by, "anything"),
    (lambda: make(task=CycleGAN(window=None)).task.window, None),
    (lambda: make(task=Classify(class_weights="balanced")).task.class_weights, "balanced"),
]


@pytest.mark.parametrize("row", range(len(TAKEN)))
def test_what_can_be_held_as_plain_data_is_taken_as_such(row) -> None:
    """NumPy's numbers, lists and paths become Python's numbers, tuples and text, of exactly these types."""
    found, wanted = TAKEN[row][0](), TAKEN[row][1]
    assert found == wanted and type(found) is type(wanted) and repr(found) == repr(wanted)


def test_settings_with_numbers_of_numpy_survive_json_and_are_the_same_settings() -> None:
    rate = np.linspace(0.0, 1.0, 5, dtype=np.float32)[1]
    one = make(local=LocalTraining(learning_rate=rate), sampling=Uniform(np.int64(4)), explanations=["lrp"])
    other = make(local=LocalTraining(learning_rate=0.25), sampling=Uniform(4), explanations=("lrp",))
    assert one == other and hash(one.sampling) == hash(other.sampling)
    assert configs.digest(one) == configs.digest(other) == configs.digest(configs.from_dict(configs.to_dict(one)))
    json.dumps(configs.to_dict(one))


def test_numbers_that_are_not_known_yet_pass() -> None:
    """In the program of a sweep a field holds a tracer."""
    base = make(local=LocalTraining(learning_rate=0.1))
    assert group.differing_numbers([base, configs.with_field(base, "local.learning_rate", 0.2)])

    def rate(value: jax.Array) -> jax.Array:
        return configs.with_field(base, "local.learning_rate", value).local.learning_rate * 2

    assert jax.jit(rate)(jnp.float32(3)) == 6


def test_every_settings_class_of_the_package_is_checked_with_its_defaults() -> None:
    """No default is refused, and none is changed. Sources of other sources have none."""
    for part in parts.PARTS:
        for kind in parts.settings(part).values():
            needed = [one for one in dataclasses.fields(kind) if one.default is one.default_factory]
            if all(one.type in (str, "str") for one in needed):
                assert fields.plain(kind(**{one.name: "x" for one in needed})).keys() <= {one.name for one in needed}


@dataclass(frozen=True)
class Needy:
    """Settings that cannot be made of defaults."""

    strength: float

    def build(self) -> None:
        """Builds nothing."""


def test_a_part_without_a_default_is_one_line(monkeypatch) -> None:
    known = parts.settings("algorithm")
    monkeypatch.setattr(parts, "settings", lambda part: {**known, "needy": Needy})
    with pytest.raises(UserError, match=r"--fed.algorithm needy: Needy.strength has no default: give it one, or set"):
        configs.override(make(), ["--fed.algorithm", "needy"])


@dataclass(frozen=True)
class Seeded:
    """Settings with a seed."""

    seed: Seed = 0


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_no_two_seeds_are_one(seed) -> None:
    """JAX takes a seed past the range as another one: 2^32 as 0."""
    with pytest.raises(UserError, match=f"seed={seed}: must be a whole number from 0 to 4294967295"):
        fields.check(Seeded(seed))
    with pytest.raises(UserError, match=f"seed={seed}: must be a whole number from 0 to 4294967295"):
        Phantom(clients=2).build(seed)
    with pytest.raises(UserError, match=f"random: seed={seed}: must be a whole number from 0 to 4294967295"):
        study.random(2, seed, {"seed": [1, 2]})
    keys = [jax.random.key_data(jax.random.key(one)).tolist() for one in (0, 1, 2**31, 2**32 - 1)]
    assert len({tuple(key) for key in keys}) == 4


def test_settings_that_are_given_are_not_changed_themselves() -> None:
    network = CNNSettings(widths=[8])
    assert make(task=Classify(network=network)).task.network.widths == (8,) and network.widths == [8]
