"""How far a prediction can be trusted, judging by the predictions on test data that a run has kept."""

from collections.abc import Callable, Mapping, Sequence
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


class Requirements(NamedTuple):
    """What users ask of predictions."""

    alpha: float = 0.1  # sets may miss the truth in this share of cases
    accuracy: float = 0.95  # of the predictions that nobody reviews, at least


class Calibration(NamedTuple):
    """What the predictions that a run has kept of one test set say of its confidence."""

    test: str  # its name
    examples: int
    required: Requirements
    temperature: float
    limit: float  # of the score that a class in the set may have (LAC)
    threshold: float  # confidence below which a person should look; inf: at all
    site_coverage: np.ndarray  # float [M], how often sets hold the truth at each site of another test set
    coverage_test: str  # the name of that test set; the calibrating one where there is no other
    referred: np.ndarray  # [n], shares of the images that are referred to a person
    accuracy: np.ndarray  # [n], accuracy on the rest at each of these shares


class Verdict(NamedTuple):
    """The prediction for one image, and how far it can be trusted."""

    probabilities: np.ndarray  # [C], calibrated where that is possible
    prediction: int
    prediction_set: np.ndarray | None  # bool [C], the conformal set
    outlier_p: float | None  # p value of an image of the run's test data being this unlike it
    reasons: list[str]  # why a person should look; none: none need

    @property
    def confidence(self) -> float:
        """The probability of the predicted class."""
        return float(self.probabilities[self.prediction])


def calibrate(runs: Sequence[Path], required: Requirements, say: Callable[[str], None]) -> Calibration | None:
    """The calibration by the runs' results; None, with a line to `say`, where a run has none.

    Raises UserError where the runs have different test data.
    """
    try:
        records = [results.load(run).tests for run in runs]
    except UserError as error:
        say(f"no calibration: {error}")
        return None
    tests = {name: ensemble_result(runs, [record.get(name) for record in records]) for name in records[0]}
    return fit(calibration_set(tests), tests, required)


def ensemble_result(runs: Sequence[Path], several: Sequence[TestResult | None]) -> TestResult:
    """One test set as the ensemble of runs predicts it."""
    present = [one for one in several if one is not None]
    if len(present) < len(runs) or any(not np.array_equal(one.labels, present[0].labels) for one in present):
        raise UserError(f"{', '.join(map(str, runs))}: tested on different data: give runs of one data and seed")
    return present[0]._replace(probabilities=np.mean([one.probabilities for one in present], 0))


def calibration_set(tests: Mapping[str, TestResult]) -> str:
    """The name of the test set to calibrate by: of training sites where there is one, so that new sites stay unused."""
    of_training_sites = [name for name, test in tests.items() if test.owner is not None and (test.owner >= 0).all()]
    return (of_training_sites or list(tests))[0]


def fit(name: str, tests: dict[str, TestResult], required: Requirements) -> Calibration:
    """The calibration by the test set of that name; another one, if there is one, tells how its sites are covered."""
    test = tests[name]
    logits, labels = temperature.logits(jnp.asarray(test.probabilities)), jnp.asarray(test.labels)
    fitted_temperature = float(temperature.fit(logits, labels))
    chances = temperature.apply(logits, fitted_temperature)
    limit = conformal.quantile(conformal.least_ambiguous(chances), labels, required.alpha)
    confidence, correct = chances.max(1), chances.argmax(1) == labels
    referred, accuracy = referral.curve(confidence, correct)
    other = next((one for one in tests if one != name), name)
    return Calibration(
        test=name,
        examples=len(labels),
        required=required,
        temperature=fitted_temperature,
        limit=float(limit),
        threshold=referral.threshold(np.asarray(confidence), np.asarray(correct), required.accuracy),
        site_coverage=coverage(tests[other], fitted_temperature, float(limit)),
        coverage_test=other,
        referred=np.asarray(referred),
        accuracy=np.asarray(accuracy),
    )


def coverage(test: TestResult, fitted_temperature: float, limit: float) -> np.ndarray:
    """How often prediction sets hold the truth at each site, [M]; nan for a site without examples."""
    chosen = prediction_sets(
        temperature.apply(temperature.logits(jnp.asarray(test.probabilities)), fitted_temperature), limit
    )
    held = conformal.covered(chosen, jnp.asarray(test.labels))
    return np.asarray(conformal.by_site(held, jnp.asarray(test.client), len(test.tally.weight)))


def prediction_sets(chances: jax.Array, limit: float) -> jax.Array:
    """The classes of each prediction set, bool [n, C]; the most likely is always one, which can only cover more."""
    likely = chances == chances.max(1, keepdims=True)
    return conformal.sets(conformal.least_ambiguous(chances), limit) | likely


def verdicts(
    logits: jax.Array, calibration: Calibration | None, energies: np.ndarray, classes: Sequence[str]
) -> list[Verdict]:
    """The verdicts on images with logits [n, C]; energies [m] are those of test images that the run has kept."""
    fitted_temperature = calibration.temperature if calibration else 1.0
    chances = temperature.apply(logits, fitted_temperature)
    chosen = np.asarray(prediction_sets(chances, calibration.limit)) if calibration else None
    unlike = np.asarray(outliers.p_value(outliers.energy(logits), jnp.asarray(energies))) if len(energies) else None
    found = []
    for place, row in enumerate(np.asarray(chances)):
        members = None if chosen is None else chosen[place]
        outlier = None if unlike is None else float(unlike[place])
        verdict = Verdict(row, int(row.argmax()), members, outlier, [])
        found.append(verdict._replace(reasons=reasons(verdict, calibration, len(energies), classes)))
    return found


def reasons(verdict: Verdict, calibration: Calibration | None, references: int, classes: Sequence[str]) -> list[str]:
    """The reasons why a person should look at an image; none where nobody needs to."""
    said = []
    if calibration is None:
        said.append("the run has kept no predictions to calibrate by")
    elif verdict.confidence < calibration.threshold:
        asked = calibration.threshold
        limit = f"the {asked:.2f} from which" if np.isfinite(asked) else "what it would take; at none"
        said.append(
            f"confidence {verdict.confidence:.2f} is below {limit} predictions on {calibration.test} were "
            f"{percent(calibration.required.accuracy)} right"
        )
    if verdict.prediction_set is not None and verdict.prediction_set.sum() > 1:
        others = [name for name, is_in in zip(classes, verdict.prediction_set) if is_in]
        said.append(f"{' or '.join(others)}: {len(others)} classes are possible")
    if verdict.outlier_p is not None and verdict.outlier_p <= 1 / (1 + references):
        said.append(f"unlike all of the {references} test images that the run has kept (energy)")
    return said
