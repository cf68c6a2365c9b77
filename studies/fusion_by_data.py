"""How many patients does fusion of CT and MR need, and what does federation cost it (system D; synthetic)?

Command: fedjax-mri sweep studies/fusion_by_data.py
Hardware and time: about six minutes on 2 cores.
Data: as in studies/fusion.py where no hospital lacks a modality, with a quarter, half and all of the patients, and with
all of them in one place (centralised).
"""

import pathlib
import runpy
from dataclasses import replace

from fedjax_mri.data.pooled import Pooled
from fedjax_mri.study.study import Study

fusion = runpy.run_path(str(pathlib.Path(__file__).with_name("fusion.py")))
BASE, NEURAL = fusion["base"], fusion["NEURAL"]
FULL = BASE.data.source.source


def data(share: float) -> object:
    """Hospitals with that share of their patients."""
    sites = replace(FULL.sites, patients_mean=share * FULL.sites.patients_mean, patients_min=4)
    drawn = replace(BASE.data.source, source=replace(FULL, sites=sites))
    return replace(BASE.data, source=drawn, ct_only=0.0, mr_only=0.0)


study = Study(
    base=replace(BASE, name="fusion by share of the data", data=data(1.0)),
    axes={
        "data": {
            "a quarter": data(0.25),
            "a half": data(0.5),
            "all": data(1.0),
            "all, centralised": Pooled(data(1.0)),
        },
        ("task.network", "task.classical"): {name: pair for name, pair in NEURAL.items() if name != "late"},
        "seed": range(3),
    },
)
