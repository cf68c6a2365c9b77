"""What attacks on a run have found."""

import json
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.attack.membership import Success, success
from fedjax_mri.attack.trial import Trial


class Scored(NamedTuple):
    """An attack's scores of patients of whom it is known whether they are members."""

    scores: np.ndarray  # [n]
    member: np.ndarray  # bool [n]
    success: Success


def scored(scores: np.ndarray, member: np.ndarray) -> Scored:
    """Returns scores [n] with their figures; `member` bool [n]."""
    return Scored(scores, member, success(scores, member))


class Members(NamedTuple):
    """Membership inference against a run and against its shadow models."""

    run: dict[str, Scored]  # attack -> scores of the run's patients
    shadows: dict[str, Scored]  # attack -> scores of all shadow models, each attacked with the others
    held_out: str  # test set of the patients that the run was not trained on
    models: int
    rounds: int
    seconds: float  # of training the shadow models


class Findings(NamedTuple):
    """What was found of a run."""

    name: str
    synthetic: bool
    defence: str  # what the run does to updates, in words
    members: Members | None
    trials: dict[int, list[Trial]]  # images of a hospital -> trials; empty where none were made
    cohort: int


def to_json(found: Findings) -> dict[str, Any]:
    """Returns the figures of attack.json: nan, which JSON lacks, is null."""

    def rows(scored: dict[str, Scored]) -> dict[str, Any]:
        return {
            name: {**one.success._asdict(), "detections": [d._asdict() for d in one.success.detections]}
            for name, one in scored.items()
        }

    members = found.members and {
        **found.members._asdict(),
        "run": rows(found.members.run),
        "shadows": rows(found.members.shadows),
    }
    trials = {
        str(batch): [{name: value for name, value in one._asdict().items() if name not in ("truth", "found")}
                     for one in several]
        for batch, several in found.trials.items()
    }  # fmt: skip
    whole = {**found._asdict(), "members": members, "trials": trials}
    return json.loads(json.dumps(whole), parse_constant=lambda _: None)
