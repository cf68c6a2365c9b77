"""The settings of an experiment: frozen dataclasses of plain data, read from a Python file, changed by flags."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.core import checks, dotted, fields, modules
from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.core.fields import Seed
from fedjax_mri.core.imports import imported
from fedjax_mri.data.contract import Source
from fedjax_mri.fed.after.ensemble import Distil
from fedjax_mri.fed.after.finetune import FineTune
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.attack import off as attack_off
from fedjax_mri.fed.client.layerwise import layerwise
from fedjax_mri.fed.client.local import Local
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.privacy.off import Off
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.fed.secure import off as secure_off
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.world.conditions import Ideal
from fedjax_mri.run import flags, parts
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.classify import Classify
from fedjax_mri.xai import methods


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains between broadcast and update."""

    epochs: int = 1  # passes over the client's own examples
    batch: int = 16  # examples a step
    steps: int = 0  # local steps of a round at most, on the first batches of its epochs; 0: all
    optimizer: str = "optax.adam"  # any importable function: learning rate -> optax transformation
    learning_rate: float = 1e-3
    decay: float = 0.0  # a step also takes this, times the learning rate, off the parameters (AdamW's, decoupled)
    rates: tuple[tuple[str, float], ...] = ()  # (pattern, factor of the rate): the first that fits, see paths.py
    schedule: Literal["constant", "cosine", "linear", "onecycle"] = "constant"  # of the learning rate over rounds
    schedule_start: int = 0  # rounds before the schedule sets in, at its first rate (onecycle: a 25th of the full one)
    schedule_rounds: int = 0  # rounds until the schedule reaches its end; 0: the rounds of the experiment
    schedule_end: float = 0.0  # share of the learning rate left there

    def build(self, rounds: int) -> Local:
        """Returns the local training of a run of so many rounds. Raises UserError on values that cannot train."""
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"local.{name}={getattr(self, name)}: must be 1 or more")
        checks.positive("local.learning_rate", self.learning_rate)
        for name in ("decay", "schedule_end"):
            checks.not_negative(f"local.{name}", getattr(self, name))
        for pattern, factor in self.rates:
            checks.not_negative(f"local.rates {pattern}", factor)
        if self.steps < 0:
            raise UserError(f"local.steps={self.steps}: must be 0, for whole epochs, or more")
        return Local(self.epochs, self.batch, self._optimizer(), self._rate(rounds), max_steps=self.steps or None)

    def _optimizer(self) -> Callable[[jax.Array], optax.GradientTransformation]:
        base = imported(self.optimizer, "local.optimizer")
        decays = not is_concrete(self.decay) or self.decay

        def optimizer(rate: jax.Array) -> optax.GradientTransformation:
            decay = (optax.add_decayed_weights(-rate * self.decay),) if decays else ()
            by_path = (layerwise(self.rates),) if self.rates else ()
            return optax.chain(base(rate), *decay, *by_path) if decays or self.rates else base(rate)

        return optimizer

    def _rate(self, rounds: int) -> Callable[[jax.Array], jax.Array]:
        start, end = self.schedule_start, self.schedule_end
        over = (self.schedule_rounds or rounds) - start
        if start < 0 or over < 1:
            raise UserError(
                f"local.schedule_start={start}, schedule_rounds={self.schedule_rounds}: the start must be 0 or more, "
                f"and less than the schedule's {over + start} rounds; lower it, or train for more rounds"
            )
        rate = {
            "constant": lambda: optax.constant_schedule(self.learning_rate),
            "cosine": lambda: optax.cosine_decay_schedule(self.learning_rate, over, end),
            "linear": lambda: optax.linear_schedule(self.learning_rate, self.learning_rate * end, over),
            "onecycle": lambda: optax.warmup_cosine_decay_schedule(
                self.learning_rate / 25, self.learning_rate, round(0.3 * over), over, self.learning_rate * end
            ),
        }[self.schedule]()
        return lambda round: jnp.asarray(rate(jnp.maximum(round.astype(jnp.float32) - start, 0.0)), jnp.float32)


@dataclass(frozen=True)
class Experiment:
    """One run: data, task, how clients learn, how the server aggregates, for how long."""

    data: Source  # Phantom, Folder or one of yours
    name: str = "experiment"
    seed: Seed = 0
    rounds: int = 100  # a run that is done may be given more, unless the learning rate follows a schedule over them
    evaluate_every: int = 10  # rounds a segment: between two evaluations, and two checkpoints
    task: Any = field(default_factory=Classify)
    init_from: str = ""  # a file of weights, or another run's folder, that the model begins with; see initial.py
    local: LocalTraining = field(default_factory=LocalTraining)
    sampling: Any = field(default_factory=Uniform)
    conditions: Any = field(default_factory=Ideal)
    uplink: UplinkSettings = field(default_factory=UplinkSettings)
    downlink: Any = None  # settings of a stage that compresses; the broadcast is compressed by it
    privacy: Any = field(default_factory=Off)
    secure: Any = field(default_factory=secure_off.Off)
    attack: Any = field(default_factory=attack_off.Off)
    algorithm: Any = field(default_factory=FedAvg)
    finetune: FineTune = field(
        default_factory=FineTune
    )  # on each test client's own training data, after the last round
    distil: Distil = field(default_factory=Distil)  # of clients' models into the server's, after the last round
    plan: Plan = field(default_factory=Plan)
    keep: int = 2  # newest checkpoints that stay on disk
    early: Early = field(default_factory=Early)
    explanations: tuple[str, ...] = ()  # methods by which the report explains a few test examples: gradcam, lrp, ...
    pictures: bool = False  # a few examples after each evaluation, in RUN/pictures, where the task has pictures to show

    def __post_init__(self) -> None:
        parts.refuse_names(self)
        for name, value in fields.plain(self).items():
            object.__setattr__(self, name, value)
        for name in ("rounds", "evaluate_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be 1 or more")
        for name in self.explanations:
            methods.settings(name, "explanations")


def load(path: str | pathlib.Path) -> dict[str, Experiment]:
    """Returns the experiments of a Python file: its `config`, or its `configs`, named variants that run in turn."""
    names = definitions(path)
    found = names.get("configs", {"": names["config"]} if "config" in names else None)
    if not found or not all(isinstance(one, Experiment) for one in found.values()):
        raise UserError(f"{path}: must define `config = Experiment(...)` or `configs = {{name: Experiment(...)}}`")
    for name in found:
        plain = isinstance(name, str) and name == pathlib.PurePath(name).name and name not in (".", "..")
        if not plain or (not name and len(found) > 1):
            raise UserError(f"{path}: configs has the name {name!r}, by which no folder can be named; give another")
    return found


def definitions(path: str | pathlib.Path) -> dict[str, Any]:
    """Returns what a Python file defines, by name. Raises UserError where it cannot be run."""
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path}: no such config file; see configs/ for examples")
    try:
        return vars(modules.execute(pathlib.Path(path)))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}: cannot be read as a config: {type(error).__name__}: {error}") from error


def with_field(config: Any, path: str, value: Any) -> Any:
    """Returns `config` with another value in the field of a dotted path. Raises UserError where there is none."""
    return dotted.with_values(config, {path: value})


def override(config: Any, given: Sequence[str]) -> Any:
    """Returns a dataclass with `--fed.part name` and then `--section.field value` flags applied.

    Raises UserError naming the flag, its value and what is expected, or the nearest part or field.
    """
    return flags.apply(*parts.choose(config, given, with_field))


def flat(config: Any) -> dict[str, Any]:
    """Returns each leaf field of nested dataclasses by its dotted name; the type of each section is a leaf as well.

    Sections in a tuple are named by their place: uplink.stages.0.bound.
    """
    return {
        name: type(value).__name__ if dotted.is_section(value) else value
        for name, value, _ in dotted.annotations(config)
    }


def to_dict(config: Any) -> Any:
    """Returns nested plain data, in which "class" says which dataclass each level was."""
    if isinstance(config, tuple):
        return tuple(to_dict(one) for one in config)
    if not dataclasses.is_dataclass(config):
        return config
    kind = type(config)
    return {"class": f"{modules.home(kind)}.{kind.__qualname__}"} | {
        name: to_dict(value) for name, value in dotted.children(config).items()
    }


def from_dict(plain: dict[str, Any]) -> Any:
    """Returns the dataclass of which `to_dict` made `plain`.

    A round trip through JSON, which turns tuples into lists, changes nothing. Raises UserError where another version
    of the package has written it, with fields that there are no more.
    """
    made: Any = imported(plain["class"], "class")
    if not (isinstance(made, type) and dataclasses.is_dataclass(made)):
        raise UserError(f"class={plain['class']}: is no settings class; put back a copy of config.json")
    values = {name: _restored(value) for name, value in plain.items() if name != "class"}
    gone = values.keys() - {one.name for one in dataclasses.fields(made)}
    if gone:
        raise UserError(f"{made.__name__}.{min(gone)}: not a field of this version; use the one that wrote the config")
    return made(**values)


def flat_plain(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Returns each leaf of what `to_dict` gives by its dotted name; the class of each section is a leaf as well."""
    leaves: dict[str, Any] = {}
    for name, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
        if isinstance(value, dict):
            leaves |= {f"{prefix}{name}": value.get("class")} | flat_plain(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(one, dict) for one in value):
            leaves |= flat_plain(value, f"{prefix}{name}.")
        elif name != "class":
            leaves[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return leaves


def completed(before: Any, now: Any) -> Any:
    """Returns plain data with the default of each field that a section of the same class in `now` has and it lacks."""
    if not (isinstance(before, Mapping) and dataclasses.is_dataclass(now)) or before["class"] != to_dict(now)["class"]:
        return before
    defaults = {
        one.name: to_dict(one.default if one.default_factory is dataclasses.MISSING else one.default_factory())
        for one in dataclasses.fields(now)
        if one.name not in before and (one.default, one.default_factory) != (dataclasses.MISSING,) * 2
    }
    return defaults | {name: completed(value, getattr(now, name, None)) for name, value in before.items()}


def module_names(plain: Any) -> set[str]:
    """Returns the names of loaded modules that plain data name: those of classes and of functions by dotted path."""
    words = [value for value in flat_plain(plain).values() if isinstance(value, str)] + [plain["class"]]
    return {word.rpartition(".")[0] for word in words if word.rpartition(".")[0] in modules.loaded_names()}


def classes(config: Any) -> set[type]:
    """Returns the classes of nested settings."""
    own = {type(config)} if dataclasses.is_dataclass(config) else set()
    return own.union(*(classes(one) for one in dotted.children(config).values()))


def digest(config: Any) -> str:
    """Returns twelve hex digits that name a resolved config."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and "class" in value:
        return from_dict(value)
    return tuple(_restored(item) for item in value) if isinstance(value, list) else value
