"""Whether a run would go on as it began: its config, its schedule and its random numbers.

`data_digest.py` compares the data.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import checkpoint, runfolder
from fedjax_mri.run import config as configs

# What may differ when a run is continued: none of it changes what a round does.
CHANGEABLE = ("rounds", "plan", "keep", "early", "pictures", "explanations")


def refuse_other_run(run: pathlib.Path, config: configs.Experiment) -> None:
    """Raises UserError, naming what differs, when a folder holds a study, or another run that has saved something.

    Writes nothing. A run that has saved nothing may be replaced.
    """
    if (run / "study.json").exists():
        raise UserError(f"{run}: holds a study, not a run; choose another --out")
    saved = checkpoint.saved_rounds(run)
    if not saved:
        runfolder.refuse_foreign(run)
        return
    before = runfolder.read_json(run / "config.json")
    refuse_other_schedule(run, before, config)
    refuse_other_noise(run, before, config)
    differing = differences(before, config)
    if differing:
        raise UserError(f"{run}: holds a run of another config ({'; '.join(differing)}); choose another --out")
    if config.rounds < saved[-1]:
        raise UserError(f"rounds={config.rounds}: {run} has done {saved[-1]}; ask for more, or choose another --out")
    if config.distil.epochs and before["rounds"] <= saved[-1] < config.rounds:
        raise UserError(
            f"rounds={config.rounds}: the model of {run} was distilled after its last round, {saved[-1]}, and would "
            "not go on as in a longer run; choose another --out"
        )


def refuse_other_schedule(run: pathlib.Path, before: Mapping[str, Any], config: configs.Experiment) -> None:
    """Raises UserError where more rounds would change the learning rate of rounds that are done."""
    local, rounds = config.local, before["rounds"]
    follows = local.schedule != "constant" and not local.schedule_rounds
    if follows and config.rounds != rounds and before["local"].get("schedule_rounds", 0) == 0:
        raise UserError(
            f"rounds={config.rounds}: the learning rate of {run} follows local.schedule={local.schedule} over its "
            f"{rounds} rounds; give --local.schedule-rounds {rounds} to keep it, or choose another --out"
        )


def refuse_other_noise(run: pathlib.Path, before: Mapping[str, Any], config: configs.Experiment) -> None:
    """Raises UserError where more rounds would change the noise of a private run, which was found for its rounds."""
    found = before.get("privacy", {}).get("noise") == 0
    if found and config.rounds != before["rounds"]:
        raise UserError(
            f"rounds={config.rounds}: the noise of {run} was found for the budget of its {before['rounds']} rounds; "
            "choose another --out, and give privacy.noise where a run is to be continued later"
        )


def differences(before: Mapping[str, Any], now: configs.Experiment, ignored: Sequence[str] = CHANGEABLE) -> list[str]:
    """Returns the fields in which a config differs from an earlier one as plain data, as "name: before -> now".

    Sections that are `ignored` may differ. A field that an older version did not have counts as its default.
    """
    old, new = configs.flat_plain(configs.completed(before, now)), configs.flat_plain(configs.to_dict(now))
    for one, config in ((old, before), (new, configs.to_dict(now))):
        one["local.schedule_rounds"] = schedule_rounds(one, config["rounds"])
    names = [name for name in {**old, **new} if name.split(".")[0] not in ignored]
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def schedule_rounds(settings: Mapping[str, Any], rounds: int) -> int:
    """Returns the rounds until the schedule of a flat config reaches its end; 0 where the rate is constant."""
    if settings.get("local.schedule") == "constant":
        return 0
    return settings.get("local.schedule_rounds") or rounds


def refuse_other_numerics(run: pathlib.Path, known: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Raises UserError when JAX would draw other random numbers than when the run began, by its run.json `known`.

    Packages of other versions are said.
    """
    for name, now in runfolder.numerics().items():
        before = known.get("numerics", {}).get(name, now)
        if before != now:
            raise UserError(f"{run}: began with {name}={before}, and it is {now} now; set {name.upper()}={before}")
    for name, now in runfolder.versions().items():
        before = known["environment"].get(name, now)
        if before != now:
            say(f"warning: {run} began with {name} {before}, and goes on with {now}")
