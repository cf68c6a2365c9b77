"""How far a prediction is to be trusted, by the predictions on test data that a run has kept."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.explain.words import percent
from fedjax_mri.metrics import conformal, outliers, referral, temperature
from fedjax_mri.run import results
from fedjax_mri.run.record import TestResult


class Wanted(NamedTuple):
    """What is asked of predictions."""

    alpha: float = 0.1  # sets may miss the truth in this share of cases
    accuracy: float = 0.95  # of the predictions that nobody reviews


class Calibration(NamedTuple):
    """What the kept predictions of one test set say."""

    test: str  # its name
    examples: int
    wanted: Wanted
    temperature: float
    limit: float  # of the score that a class in the set may have (LAC)
    threshold: float  # confidence below which a person should look
    sites: np.ndarray  # float [M], coverage of the sets on each client of the other test sets, or of this one
    other: str  # which these are
    referred: np.ndarray  # [n] share referred, and
    accuracy: np.ndarray  # [n] accuracy on the rest


class Verdict(NamedTuple):
    """One image's."""

    probabilities: np.ndarray  # [C], calibrated where that is possible
    prediction: int
    chosen: np.ndarray | None  # bool [C], the conformal set
    unlike: float | None  # p value of an image of the run's test data being this unlike it
    reasons: list[str]  # why a person should look; none: none need

    @property
    def confidence(self) -> float:
        """Of the prediction."""
        return float(self.probabilities[self.prediction])


def calibrate(runs: Sequence[Path], wanted: Wanted, say: Callable[[str], None]) -> Calibration | None:
    """From the runs' results; None, with a line, where there are none. Raises UserError where runs differ in data."""
    try:
        records = [results.load(run).tests for run in runs]
    except UserError as error:
        say(f"no calibration: {error}")
        return None
    tests = {name: together(runs, [record.get(name) for record in records]) for name in records[0]}
    name = preferred(runs[0], list(tests))
    return fitted(name, tests, wanted)


def together(runs: Sequence[Path], several: Sequence[TestResult | None]) -> TestResult:
    """One test set as the ensemble of runs predicts it."""
    present = [one for one in several if one is not None]
    if len(present) < len(runs) or any(not np.array_equal(one.labels, present[0].labels) for one in present):
        raise UserError(f"{', '.join(map(str, runs))}: judged on different test data: give runs of one data and seed")
    return present[0]._replace(probabilities=np.mean([one.probabilities for one in present], 0))


def preferred(run: Path, names: Sequence[str]) -> str:
    """The test set that calibrates: of training sites where there is one, so that new sites stay unused."""
    owners = results.sites(run)[0]
    seen = [name for name in names if name in owners and (owners[name] >= 0).all()]
    return (seen or list(names))[0]


def fitted(name: str, tests: dict[str, TestResult], wanted: Wanted) -> Calibration:
    """By the test set of that name; the other sets tell how sites are covered."""
    test = tests[name]
    logits, labels = temperature.logits(jnp.asarray(test.probabilities)), jnp.asarray(test.labels)
    heat = float(temperature.fit(logits, labels))
    chances = temperature.apply(logits, heat)
    limit = conformal.quantile(conformal.least_ambiguous(chances), labels, wanted.alpha)
    confidence, correct = chances.max(1), chances.argmax(1) == labels
    referred, accuracy = referral.curve(confidence, correct)
    other = next((one for one in tests if one != name), name)
    return Calibration(
        test=name,
        examples=len(labels),
        wanted=wanted,
        temperature=heat,
        limit=float(limit),
        threshold=referral.threshold(np.asarray(confidence), np.asarray(correct), wanted.accuracy),
        sites=coverage(tests[other], heat, float(limit)),
        other=other,
        referred=np.asarray(referred),
        accuracy=np.asarray(accuracy),
    )


def coverage(test: TestResult, heat: float, limit: float) -> np.ndarray:
    """How often sets hold the truth at each site, [M]; nan for a site without examples."""
    chosen = sets(temperature.apply(temperature.logits(jnp.asarray(test.probabilities)), heat), limit)
    held = conformal.covered(chosen, jnp.asarray(test.labels))
    return np.asarray(conformal.by_site(held, jnp.asarray(test.client), len(test.tally.weight)))


def sets(chances: jax.Array, limit: float) -> jax.Array:
    """Which classes belong, bool [n, C]; the most likely always does, which can only cover more."""
    likely = chances == chances.max(1, keepdims=True)
    return conformal.sets(conformal.least_ambiguous(chances), limit) | likely


def verdicts(
    logits: jax.Array, calibration: Calibration | None, energies: np.ndarray, classes: Sequence[str]
) -> list[Verdict]:
    """Of images with logits [n, C]; energies [m] of images that the run was tested on, which may be none."""
    heat = calibration.temperature if calibration else 1.0
    chances = temperature.apply(logits, heat)
    chosen = np.asarray(sets(chances, calibration.limit)) if calibration else None
    unlike = np.asarray(outliers.p_value(outliers.energy(logits), jnp.asarray(energies))) if len(energies) else None
    found = []
    for place, row in enumerate(np.asarray(chances)):
        of = None if chosen is None else chosen[place]
        far = None if unlike is None else float(unlike[place])
        verdict = Verdict(row, int(row.argmax()), of, far, [])
        found.append(verdict._replace(reasons=reasons(verdict, calibration, len(energies), classes)))
    return found


def reasons(verdict: Verdict, calibration: Calibration | None, references: int, classes: Sequence[str]) -> list[str]:
    """Why a person should look at it."""
    said = []
    if calibration is None:
        said.append("the run has kept no predictions to calibrate by")
    elif verdict.confidence < calibration.threshold:
        asked = calibration.threshold
        limit = f"the {asked:.2f} from which" if np.isfinite(asked) else "what it would take; at none"
        said.append(
            f"confidence {verdict.confidence:.2f} is below {limit} predictions on {calibration.test} were "
            f"{percent(calibration.wanted.accuracy)} right"
        )
    if verdict.chosen is not None and verdict.chosen.sum() > 1:
        others = [name for name, is_in in zip(classes, verdict.chosen) if is_in]
        said.append(f"{' or '.join(others)}: {len(others)} classes are possible")
    if verdict.unlike is not None and verdict.unlike <= 1 / (1 + references):
        said.append(f"unlike all of the {references} test images that the run has kept (energy)")
    return said
