"""How far a prediction can be trusted, judging by the predictions on test data that a run has kept."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.explain.out_of_distribution import OODResult
from fedjax_mri.explain.words import percent
from fedjax_mri.metrics import conformal, referral, temperature
from fedjax_mri.run import results
from fedjax_mri.run.record import TestResult
from fedjax_mri.run.reference import calibration_set, is_validation


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
    ood: OODResult
    reasons: list[str]  # why a person should look; none: none need

    @property
    def confidence(self) -> float:
        """The probability of the predicted class."""
        return float(self.probabilities[self.prediction])


def possible_classes(verdict: Verdict, classes: Sequence[str]) -> list[str]:
    """Returns the classes in the conformal set of a prediction; none where there is no set."""
    inside = np.zeros(len(classes), bool) if verdict.prediction_set is None else verdict.prediction_set
    return [name for name, is_in in zip(classes, inside) if is_in]


def calibrate(runs: Sequence[Path], required: Requirements, say: Callable[[str], None]) -> Calibration | None:
    """Returns the calibration by the runs' results; None, with a line to `say`, where a run has none.

    Raises UserError where the runs have different test data.
    """
    try:
        records = [results.explained_tests(run) for run in runs]
    except UserError as error:
        say(f"no calibration: {error}")
        return None
    tests = {name: ensemble_result(runs, [record.get(name) for record in records]) for name in records[0]}
    return fit(calibration_set({name: test.owner for name, test in tests.items()}), tests, required)


def ensemble_result(runs: Sequence[Path], several: Sequence[TestResult | None]) -> TestResult:
    """Returns one test set as the ensemble of runs predicts it."""
    present = [one for one in several if one is not None]
    if len(present) < len(runs) or any(not np.array_equal(one.labels, present[0].labels) for one in present):
        raise UserError(f"{', '.join(map(str, runs))}: tested on different data: give runs of one data and seed")
    return present[0]._replace(probabilities=np.mean([one.probabilities for one in present], 0))


def fit(name: str, tests: dict[str, TestResult], required: Requirements) -> Calibration:
    """Returns the calibration by the validation images of the test set of that name.

    Another test set tells how its sites are covered; the other half of the same one where there is no other.
    """
    chosen = is_validation(name, len(tests[name].labels))
    test = some_examples(tests[name], chosen)
    logits, labels = temperature.logits(jnp.asarray(test.probabilities)), jnp.asarray(test.labels)
    fitted_temperature = float(temperature.fit(logits, labels))
    chances = temperature.apply(logits, fitted_temperature)
    limit = conformal.quantile(conformal.least_ambiguous(chances), labels, required.alpha)
    confidence, correct = chances.max(1), chances.argmax(1) == labels
    referred, accuracy = referral.curve(confidence, correct)
    other, rest = next(((n, one) for n, one in tests.items() if n != name), (name, some_examples(tests[name], ~chosen)))
    return Calibration(
        test=name,
        examples=len(labels),
        required=required,
        temperature=fitted_temperature,
        limit=float(limit),
        threshold=referral.threshold(np.asarray(confidence), np.asarray(correct), required.accuracy),
        site_coverage=coverage(rest, fitted_temperature, float(limit)),
        coverage_test=other,
        referred=np.asarray(referred),
        accuracy=np.asarray(accuracy),
    )


def some_examples(test: TestResult, chosen: np.ndarray) -> TestResult:
    """Returns the test set with the chosen examples alone, bool [n]; its tally stays that of all."""
    kept = {"probabilities": test.probabilities, "labels": test.labels, "client": test.client}
    return test._replace(**{name: values[chosen] for name, values in kept.items()})


def coverage(test: TestResult, fitted_temperature: float, limit: float) -> np.ndarray:
    """Returns how often prediction sets hold the truth at each site, [M]; nan for a site without examples."""
    chosen = prediction_sets(
        temperature.apply(temperature.logits(jnp.asarray(test.probabilities)), fitted_temperature), limit
    )
    held = conformal.covered(chosen, jnp.asarray(test.labels))
    return np.asarray(conformal.by_site(held, jnp.asarray(test.client), len(test.tally.weight)))


def prediction_sets(chances: jax.Array, limit: float) -> jax.Array:
    """Returns the classes of each prediction set, bool [n, C].

    The most likely is always one, which can only cover more.
    """
    likely = chances == chances.max(1, keepdims=True)
    return conformal.sets(conformal.least_ambiguous(chances), limit) | likely


def verdicts(
    logits: jax.Array, calibration: Calibration | None, ood: Sequence[OODResult], classes: Sequence[str]
) -> list[Verdict]:
    """Returns the verdicts on images with logits [n, C].

    `ood` says of each image how unlike the run's own images it is.
    """
    fitted_temperature = calibration.temperature if calibration else 1.0
    chances = temperature.apply(logits, fitted_temperature)
    chosen = np.asarray(prediction_sets(chances, calibration.limit)) if calibration else None
    found = []
    for place, row in enumerate(np.asarray(chances)[: len(ood)]):
        members = None if chosen is None else chosen[place]
        verdict = Verdict(row, int(row.argmax()), members, ood[place], [])
        found.append(verdict._replace(reasons=reasons(verdict, calibration, classes)))
    return found


def reasons(verdict: Verdict, calibration: Calibration | None, classes: Sequence[str]) -> list[str]:
    """Returns the reasons why a person should look at an image; none where nobody needs to."""
    said = list(verdict.ood.reasons)
    if calibration is None:
        said.append("the run has kept no predictions to calibrate by")
    elif verdict.confidence < calibration.threshold:
        asked = calibration.threshold
        limit = f"confidence {verdict.confidence:.2f} is below the {asked:.2f} from which"
        said.append(
            f"{limit if np.isfinite(asked) else 'at no confidence'} predictions on {calibration.test} were "
            f"{percent(calibration.required.accuracy)} right"
        )
    if len(possible := possible_classes(verdict, classes)) > 1:
        said.append(f"{' or '.join(possible)}: {len(possible)} classes are possible")
    return said
