"""The detectors of system E, on the MR of the synthetic patients that `translation_demo.py` translates.

Command: fedjax-mri train configs/detectors.py --only resnet50
Then:    python scripts/detection_on_translated.py runs/translation_demo/cyclegan runs/detectors/resnet50
Hardware and time: 4 minutes on 2 cores for --only cnn; the others were not measured.
Data: the demo's phantom with 60 hospitals in place of 9 (synthetic), and the demo's test sites. The networks have the
sizes of `classifiers.py`.
"""

import pathlib
from dataclasses import replace

from fedjax_mri.run.config import load

HERE = pathlib.Path(__file__)
PATIENTS = load(HERE.with_name("translation_demo.py"))["pix2pix"].data
CLASSIFIERS = load(HERE.with_name("classifiers.py"))

configs = {
    name: replace(CLASSIFIERS[name], name=f"{name}, detector", data=replace(PATIENTS, clients=60))
    for name in ("cnn", "resnet50", "vgg16", "efficientnet_b3")
}
