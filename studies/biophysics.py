"""Does the bio-physical loss lower the error in each tissue? CycleGAN with and without it (synthetic).

Command: fedjax-mri sweep studies/biophysics.py
Hardware and time: ten minutes on 2 cores.
Data: the nine hospitals of configs/translation_demo.py, trained for 10 rounds.
"""

import pathlib
from dataclasses import replace

from fedjax_mri.run.config import load
from fedjax_mri.study.study import Study

demo = load(pathlib.Path(__file__).parents[1] / "configs" / "cyclegan_demo.py")[""]

study = Study(
    base=replace(
        demo,
        name="bio-physical loss",
        local=replace(demo.local, schedule_start=5),
        rounds=10,
        evaluate_every=5,
        pictures=False,
    ),
    axes={"task.extras.biophysical": [0.0, 40.0], "seed": range(3)},
)
