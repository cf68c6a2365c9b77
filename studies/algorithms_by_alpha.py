"""Which algorithm copes best with label skew: five algorithms, four Dirichlet concentrations, five seeds (synthetic).

Command: fedjax-mri sweep studies/algorithms_by_alpha.py
Hardware and time: 22 minutes on 2 cores. One program for each algorithm trains its 20 cells.
Data: the phantom at 64 px, drawn once and resized to 32 px, with 20 hospitals, 10 a round. Clients take plain SGD
steps, as SCAFFOLD and FedDyn assume. The server's learning rates are those of the papers.
"""

from dataclasses import replace

from fedjax_mri.data.augment import Preprocess
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.feddyn import FedDyn
from fedjax_mri.fed.algorithms.fedopt import FedAdam
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify

# Except in their labels, hospitals differ less than by the phantom's defaults, so that 50 rounds are enough.
USUAL = SiteModel()
SITES = SiteModel(
    mr_noise=(0.01, 0.03),
    bias_field=(0.0, 0.2),
    tilt=5.0,
    patients_mean=30.0,
    patients_sigma=0.5,
    patients_max=80,
    t1_spin_echo=replace(USUAL.t1_spin_echo, share=0.0),
    t1_gadolinium=replace(USUAL.t1_gadolinium, share=0.85),
    t2_spin_echo=replace(USUAL.t2_spin_echo, share=0.0),
    flair=replace(USUAL.flair, share=0.0),
    spgr=replace(USUAL.spgr, share=0.15),
)
LESIONS = LesionModel(size=1.5, contrast=1.5, distractors=0.15, high_grade=0.85)

study = Study(
    base=Experiment(
        name="algorithms by label skew",
        data=Precomputed(Phantom(clients=20, test_clients=20, test_patients=16, size=64, sites=SITES, lesions=LESIONS)),
        task=Classify(network=CNNSettings(widths=(16, 32, 64)), preprocess=Preprocess(size=32)),
        local=LocalTraining(epochs=2, batch=8, optimizer="optax.sgd", learning_rate=0.05),
        sampling=Uniform(cohort=10),
        rounds=50,
        evaluate_every=10,
        plan=Plan(tune_s=0),
    ),
    axes={
        "algorithm": [
            FedAvg(),
            FedProx(mu=0.01),
            Scaffold(),
            FedDyn(alpha=0.1),
            FedAdam(),
        ],
        "data.source.sites.class_alpha": [0.1, 0.3, 1.0, 10.0],
        "seed": range(5),
    },
)
