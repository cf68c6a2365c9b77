"""Is it better to drop stragglers or to take their unfinished work, and how long should the server wait (synthetic)?

Command: fedjax-mri sweep studies/stragglers.py
Hardware and time: about three minutes on 2 cores.
Data: the phantom at 64 px, resized to 32, with 20 hospitals whose computers and links differ. A deadline ends each
round. Work that is not done by then is dropped, or handed in as it is. Time is measured on the virtual clock.
"""

from dataclasses import replace

from fedjax_mri.data.augment import Preprocess
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.fed.world.conditions import Stragglers
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify

USUAL = SiteModel()
OTHERS = ("t1_spin_echo", "t2_spin_echo", "flair", "spgr")
SITES = replace(  # one MR sequence everywhere; hospitals differ in their labels and computers
    USUAL,
    class_alpha=0.5,
    mr_noise=(0.01, 0.03),
    bias_field=(0.0, 0.2),
    patients_mean=30.0,
    patients_max=80,
    **{name: replace(getattr(USUAL, name), share=0.0) for name in OTHERS},
)

study = Study(
    base=Experiment(
        name="stragglers",
        data=Precomputed(
            Phantom(
                clients=20,
                test_clients=20,
                test_patients=16,
                sites=SITES,
                lesions=LesionModel(size=1.5, contrast=1.5, distractors=0.15),
            )
        ),
        task=Classify(network=CNNSettings(widths=(16, 32, 64)), preprocess=Preprocess(size=32)),
        local=LocalTraining(epochs=2, batch=8, learning_rate=2e-3),
        sampling=Uniform(cohort=10),
        conditions=Stragglers(),
        rounds=25,
        evaluate_every=5,
        plan=Plan(tune_s=0),
    ),
    axes={
        "conditions.late": ["drop", "cut"],
        "algorithm": [FedAvg(), FedProx(mu=0.01)],
        "conditions.deadline_s": [0.5, 1.0, 2.0, 8.0],
        "seed": range(3),
    },
)
