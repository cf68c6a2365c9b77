"""System B: the same brain MR slices in one place, or in four hospitals of sizes 5,000 : 6,000 : 6,500 : 5,401.

Command: fedjax-mri sweep studies/four_hospitals.py
Hardware and time: about 15 minutes on 2 cores. Expect .844 centralised and .798 federated on real slices.
Data: real slices, if the folders Training/ and Testing/ are below ./brain-tumor-mri, or below the path in the
environment variable FEDJAX_MRI_BRAIN_TUMOR. Otherwise the phantom (synthetic) with four hospitals of about 150
patients.
"""

import os
import pathlib

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.folder import FOUR_HOSPITALS, Folder
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.pooled import Pooled
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify

ROOT = pathlib.Path(os.environ.get("FEDJAX_MRI_BRAIN_TUMOR", "brain-tumor-mri"))
SITES = SiteModel(class_alpha=2.0, patients_mean=150.0, patients_sigma=0.1, patients_max=200)
STANDS_IN = Precomputed(
    Phantom(
        clients=4,
        test_clients=4,
        test_patients=64,
        sites=SITES,
        lesions=LesionModel(size=1.5, contrast=1.5, distractors=0.15),
    )
)
DATA = Folder(str(ROOT), size=64, split="grouped", partition=FOUR_HOSPITALS) if ROOT.is_dir() else STANDS_IN

study = Study(
    base=Experiment(
        name="four hospitals",
        data=DATA,
        task=Classify(
            network=CNNSettings(widths=(16, 32, 64, 128)),
            augment=Augment(flip=0.5, rotate_deg=15, zoom=0.1, brightness=0.1),
        ),
        local=LocalTraining(epochs=1, batch=16, schedule="cosine", schedule_end=0.05),
        sampling=Everyone(),
        rounds=24,
        evaluate_every=6,
        plan=Plan(tune_s=0),
    ),
    axes={
        "data": {"centralised": Pooled(DATA), "federated": DATA},
        "local.learning_rate": [2e-3],
        "seed": range(3),
    },
)
