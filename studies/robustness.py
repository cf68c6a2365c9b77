"""Which rule withstands which attack: five rules, four attacks by 4 of 20 hospitals, little and much label skew.

Command: fedjax-mri sweep studies/robustness.py
Hardware and time: about 15 minutes of CPU time on 2 cores. One program for each rule and attack trains its cells.
Data: real slices, if the folders Training/ and Testing/ are below ./brain-tumor-mri, or below the path in the
environment variable FEDJAX_MRI_BRAIN_TUMOR. Otherwise the phantom (synthetic) at 64 px. The network sees 16 px.
"""

import os
import pathlib
from dataclasses import replace

from fedjax_mri.data.augment import Preprocess
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.partition import Dirichlet
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.fed.attack.backdoor import Backdoor
from fedjax_mri.fed.attack.labelflip import LabelFlip
from fedjax_mri.fed.attack.off import Off
from fedjax_mri.fed.attack.optimalalie import OptimalALIE
from fedjax_mri.fed.attack.signflip import SignFlip
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.fed.uplink.preaggregators.nnm import NNM
from fedjax_mri.fed.uplink.reductions.krum import MultiKrum
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.reductions.trimmed_mean import TrimmedMean
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify

ROOT = pathlib.Path(os.environ.get("FEDJAX_MRI_BRAIN_TUMOR", "brain-tumor-mri"))
SKEW = [0.3, 10.0]  # concentration of the Dirichlet distribution of labels: much skew, little skew

# Except in their labels, hospitals differ less than by the phantom's defaults, so that 40 rounds are enough.
USUAL = SiteModel()
SITES = SiteModel(
    mr_noise=(0.01, 0.03),
    bias_field=(0.0, 0.2),
    tilt=5.0,
    patients_sigma=0.3,
    t1_spin_echo=replace(USUAL.t1_spin_echo, share=0.0),
    t1_gadolinium=replace(USUAL.t1_gadolinium, share=0.85),
    t2_spin_echo=replace(USUAL.t2_spin_echo, share=0.0),
    flair=replace(USUAL.flair, share=0.0),
    spgr=replace(USUAL.spgr, share=0.15),
)
LESIONS = LesionModel(size=1.5, contrast=1.5, distractors=0.15, high_grade=0.85)


def phantom(hospitals: int, alpha: float) -> Precomputed:
    """Hospitals with 600 patients together."""
    mean = 600 / hospitals
    sites = replace(SITES, class_alpha=alpha, patients_mean=mean, patients_max=round(1.6 * mean))
    return Precomputed(
        Phantom(clients=hospitals, test_clients=20, test_patients=8, size=64, sites=sites, lesions=LESIONS)
    )


def slices(hospitals: int, alpha: float) -> Folder:
    """The real slices, near-duplicates on one side of the split, divided among hospitals."""
    return Folder(str(ROOT), size=64, split="grouped", partition=Dirichlet(hospitals, alpha))


def rules(faulty: int) -> dict[str, UplinkSettings]:
    """The rules that are compared, for so many faulty hospitals."""
    return {
        "mean": UplinkSettings(),
        "median": UplinkSettings(reduce=Median()),
        "trimmed mean": UplinkSettings(reduce=TrimmedMean(faulty)),
        "multi-Krum": UplinkSettings(reduce=MultiKrum(faulty)),
        "NNM, trimmed mean": UplinkSettings(before=(NNM(faulty),), reduce=TrimmedMean(faulty)),
    }


def attacks(share: float) -> dict[str, object]:
    """The attacks, by a share of the hospitals."""
    return {
        "none": Off(),
        "label flip": LabelFlip(share=share),
        "sign flip, 3 times": SignFlip(share=share, factor=3.0),
        "optimal ALIE": OptimalALIE(share=share),
        "backdoor": Backdoor(share=share, size=12),
    }


def robustness(hospitals: int, faulty: int) -> Study:
    """The study of so many hospitals, of which some are faulty."""
    source = slices if ROOT.is_dir() else phantom
    return Study(
        base=Experiment(
            name="rules and attacks",
            data=source(hospitals, SKEW[0]),
            task=Classify(network=CNNSettings(widths=(8, 16, 32)), preprocess=Preprocess(size=16)),
            local=LocalTraining(epochs=1, batch=8, optimizer="optax.sgd", learning_rate=0.2),
            sampling=Everyone(),
            rounds=40,
            evaluate_every=10,
            plan=Plan(tune_s=0),
        ),
        axes={
            "uplink": rules(faulty),
            "attack": attacks(faulty / hospitals),
            "data": {f"alpha {alpha:g}": source(hospitals, alpha) for alpha in SKEW},
            "seed": range(2),
        },
    )


study = robustness(hospitals=20, faulty=4)
