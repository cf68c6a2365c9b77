"""How much accuracy different scanners cost when hospitals have the same mix of labels (synthetic).

Command: fedjax-mri sweep studies/scanner_skew.py
Hardware and time: about seven minutes on 2 cores.
Data: the phantom at 64 px, resized to 32, with nearly even labels. At the first level all hospitals have the same
scanner. Each further level widens the ranges from which a hospital's noise and bias field, then its field strength,
then its sequence are drawn.
"""

from dataclasses import replace

from fedjax_mri.data.augment import Preprocess
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify

USUAL = SiteModel()
EVEN = SiteModel(class_alpha=100.0, patients_mean=30.0, patients_sigma=0.5, patients_max=80)


def sites(width: float, three_tesla: float, sequences: float) -> SiteModel:
    """Sites with noise and bias field within +- `width` of their middle; `sequences`: share without T1 + Gd."""
    others = {"t1_spin_echo": 0.1, "t2_spin_echo": 0.3, "flair": 0.4, "spgr": 0.2}
    shares = {name: replace(getattr(USUAL, name), share=sequences * share) for name, share in others.items()}
    return replace(
        EVEN,
        three_tesla=three_tesla,
        mr_noise=(0.03 * (1 - width), 0.03 * (1 + width)),
        bias_field=(0.2 * (1 - width), 0.2 * (1 + width)),
        t1_gadolinium=replace(USUAL.t1_gadolinium, share=1.0 - sequences),
        **shares,
    )


study = Study(
    base=Experiment(
        name="scanner skew",
        data=Precomputed(
            Phantom(
                clients=20,
                test_clients=20,
                test_patients=16,
                lesions=LesionModel(size=1.5, contrast=1.5, distractors=0.15),
            )
        ),
        task=Classify(network=CNNSettings(widths=(16, 32, 64)), preprocess=Preprocess(size=32)),
        local=LocalTraining(epochs=2, batch=8, learning_rate=2e-3),
        sampling=Uniform(cohort=10),
        rounds=25,
        evaluate_every=5,
        plan=Plan(tune_s=0),
    ),
    axes={
        ("task.network.norm", "task.statistics"): {
            "GroupNorm": ("group", "average"),
            "BatchNorm": ("batch", "average"),
            "FedBN": ("batch", "local"),
        },
        "data.source.sites": {
            "one scanner": sites(0.0, 0.0, 0.0),
            "noise and bias": sites(0.9, 0.0, 0.0),
            "and field strength": sites(0.9, 0.5, 0.0),
            "and sequence": sites(0.9, 0.5, 0.6),
        },
        "seed": range(3),
    },
)
