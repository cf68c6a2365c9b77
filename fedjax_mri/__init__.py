"""Federated training of medical-imaging models over thousands of simulated hospitals, as one compiled program.

from fedjax_mri import load_config, train
run = train(load_config("configs/quickstart.py"), "runs/first")
run.history["unseen sites/accuracy"]
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjax_mri.api.run import Run, load_config, train
    from fedjax_mri.api.study import StudyResults, load_study, train_study
    from fedjax_mri.run.config import Experiment, LocalTraining, with_field
    from fedjax_mri.study.study import Study

__version__ = "0.1.0"
__all__ = [
    "Experiment",
    "LocalTraining",
    "Run",
    "Study",
    "StudyResults",
    "load_config",
    "load_study",
    "train",
    "train_study",
    "with_field",
]
_HOMES = {
    "api.run": ("Run", "load_config", "train"),
    "api.study": ("StudyResults", "load_study", "train_study"),
    "run.config": ("Experiment", "LocalTraining", "with_field"),
    "study.study": ("Study",),
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that a part of the package imports no more than it needs."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"fedjax_mri.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
