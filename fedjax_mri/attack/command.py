"""The command `attack`: what an attacker would get from a run, written into its folder as figures and as a page."""

import json
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from fedjax_mri.attack import page, pool, shadow, trial
from fedjax_mri.attack.findings import Findings, Members, Scored, scored, to_json
from fedjax_mri.attack.inversion import Matching
from fedjax_mri.attack.membership import ATTACKS
from fedjax_mri.attack.pool import Pool
from fedjax_mri.attack.trial import Trial
from fedjax_mri.core import disk
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation
from fedjax_mri.metrics.image import WANG
from fedjax_mri.run import models, restore, runfolder
from fedjax_mri.run.assemble import with_fixed_noise
from fedjax_mri.run.config import Experiment
from fedjax_mri.run.restore import Restored

JSON, PAGE = "attack.json", "attack.html"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """What is attacked, and with how much effort."""

    membership: bool = True
    inversion: bool = True
    shadows: int = 16  # models; half of them are trained on each patient
    rounds: int = 0  # of each shadow model; 0: those of the run
    batches: tuple[int, ...] = (1, 4, 16)  # images of a hospital whose update is inverted
    trials: int = 3  # hospitals that are attacked, for each number of images
    cohort: int = 1  # hospitals of whose updates only the sum is seen, as secure aggregation has it
    steps: int = 1500  # of the search for images
    newest: bool = False  # whether images are looked for by the last round's model, not the first's

    def check(self) -> None:
        """Raises UserError on numbers that make no sense."""
        for name in ("trials", "cohort", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be 1 or more")
        if self.shadows < 4 or self.shadows % 2:
            raise UserError(
                f"--shadows {self.shadows}: must be an even number, 4 or more, as each patient trains half of them"
            )
        if self.rounds < 0:
            raise UserError(f"--rounds {self.rounds}: must be 1 or more, or 0 for as many as the run had")
        if not self.batches or min(self.batches) < 1:
            raise UserError(f"--batches {' '.join(map(str, self.batches))}: give numbers of images, 1 or more each")


def attack(run: pathlib.Path, choices: Choices, say: Say) -> tuple[str, pathlib.Path]:
    """Writes attack.json and attack.html of a run; returns a table of the figures and the path of the page.

    Raises UserError on impossible choices, and for runs that do not classify images.
    """
    choices.check()
    restored, config = restore.restore(run), runfolder.read_config(run)
    refuse_other_runs(run, restored, choices)
    federation = restore.rebuild_data(run, config, say)
    patients = pool.gather(federation, tuple(restored.task.reads))
    config = with_fixed_noise(config, restored.described, federation.train)
    members = infer_members(config, restored, federation, patients, choices, say) if choices.membership else None
    trials = invert_updates(config, restored, patients, choices, say) if choices.inversion else {}
    name = runfolder.read_json(run / "run.json")["name"]
    found = Findings(name, federation.synthetic, defence(config), members, trials, choices.cohort)
    disk.write_text(run / JSON, json.dumps(to_json(found), indent=1, allow_nan=False))
    return page.text(found), page.write(run / PAGE, found)


def refuse_other_runs(run: pathlib.Path, restored: Restored, choices: Choices) -> None:
    """Raises UserError where a run does not classify single images, or is not fit for what was chosen."""
    described = restored.described
    if restored.task.classifier is None:
        raise UserError(
            f"{run}: its task, {type(restored.config.task).__name__}, has no scores of classes; both attacks are for "
            "runs that classify images, and none is made for this one"
        )
    if choices.inversion and len(described.image) != 3:
        raise UserError(f"{run}: --inversion is for images [H, W, C], not for volumes; --membership works")
    if choices.inversion and min(described.image[:2]) < WANG.size:
        raise UserError(
            f"{run}: its images are {described.image[0]} x {described.image[1]} pixels, and SSIM, which judges "
            f"--inversion, needs {WANG.size} or more on each side; --membership works"
        )
    if choices.inversion and choices.cohort > described.clients:
        raise UserError(f"--cohort {choices.cohort}: the run has {described.clients} hospitals; give as many or fewer")


def defence(config: Experiment) -> str:
    """Returns in words what a run does to its updates: privacy, stages, reduction, local steps."""
    stages = [type(stage).__name__.lower() for stage in config.uplink.stages]
    return (
        f"privacy {type(config.privacy).__name__.lower()}; stages {', '.join(stages) or 'none'}; reduction "
        f"{type(config.uplink.reduce).__name__.lower()}; local epochs: {config.local.epochs}, in batches of "
        f"{config.local.batch} by {config.local.optimizer}"
    )


def infer_members(
    config: Experiment, restored: Restored, federation: Federation, patients: Pool, choices: Choices, say: Say
) -> Members:
    """Returns how well membership in a run, and in each of its shadow models, can be told."""
    begin = time.perf_counter()
    inside = shadow.halves(choices.shadows, len(patients.member), np.random.default_rng(config.seed))
    classifier, shadows = shadow.trained_models(
        config, restored.described, patients, inside, federation.train, say, choices.rounds
    )
    seconds = time.perf_counter() - begin
    confidence = shadow.confidences(classifier, shadows, patients)
    one = jax.tree.map(lambda leaf: leaf[None], models.global_model(restored))
    target = shadow.confidences(classifier, one, patients)[0]
    some, member = patients.compared, patients.member[patients.compared]
    run = {
        name: scored(attack(target[some], confidence[:, some], inside[:, some]), member)
        for name, attack in ATTACKS.items()
    }
    rounds = choices.rounds or config.rounds
    return Members(run, against_each(confidence, inside), patients.held_out, choices.shadows, rounds, seconds)


def against_each(confidence: np.ndarray, inside: np.ndarray) -> dict[str, Scored]:
    """Returns each attack's scores of all models, of which each is attacked with those of the other pairs.

    confidence [M, P], inside bool [M, P] as `shadow.halves` gives it. Members are random, so that nothing but
    membership tells them; and with its pair a model leaves as many with a patient as without.
    """
    rest = [np.arange(len(inside)) // 2 != one // 2 for one in range(len(inside))]
    return {
        name: scored(
            np.concatenate([attack(confidence[i], confidence[r], inside[r]) for i, r in enumerate(rest)]),
            inside.ravel(),
        )
        for name, attack in ATTACKS.items()
    }


def invert_updates(
    config: Experiment, restored: Restored, patients: Pool, choices: Choices, say: Say
) -> dict[int, list[Trial]]:
    """Returns trials of gradient inversion, for each number of images that a hospital may hold."""
    rng, public = np.random.default_rng(config.seed), patients.fields["image"][~patients.member[patients.patient]]
    state, how = restored.state if choices.newest else None, Matching(steps=choices.steps)
    found = dict[int, list[Trial]]()
    for batch in choices.batches:
        several = [drawn(patients, batch * choices.cohort, rng) for _ in range(choices.trials)]
        invert = trial.inverter(config, restored.described, several[0], public, choices.cohort, how, state)
        found[batch] = []
        for number, fields in enumerate(several):
            found[batch].append(invert(fields))
            say(f"{batch} images, trial {number + 1} of {choices.trials}: PSNR {found[batch][-1].psnr:.1f} dB")
    return found


def drawn(patients: Pool, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the fields of so many random images that the run was trained on. Raises UserError where it has fewer."""
    mine = np.flatnonzero(patients.member[patients.patient])
    if count > len(mine):
        raise UserError(f"--batches: {count} images are to be attacked, the run has {len(mine)}; give fewer")
    chosen = rng.choice(mine, count, replace=False)
    return {name: field[chosen] for name, field in patients.fields.items()}
