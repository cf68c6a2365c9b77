"""How many hospitals, hospitals a round and local epochs are best at a fixed budget of examples (synthetic)?

Command: fedjax-mri sweep studies/clients_at_a_budget.py
Hardware and time: 18 minutes on 2 cores.
Data: the phantom at 64 px, resized to 32, with hospitals of equal size. Every cell trains on the same number of
examples, BUDGET. A round uses cohort x epochs x PATIENTS of them.
"""

from fedjax_mri.data.augment import Preprocess
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify

PATIENTS, BUDGET = 16, 19_200
COHORTS = {10: (5, 10), 100: (10, 50), 1_000: (10, 50), 10_000: (10, 50)}  # clients -> cohorts
SITES = SiteModel(
    class_alpha=1.0,
    mr_noise=(0.01, 0.03),
    bias_field=(0.0, 0.2),
    patients_mean=float(PATIENTS),
    patients_sigma=0.0,
)


def rounds(cohort: int, epochs: int) -> int:
    """The number of rounds that spend the budget."""
    return BUDGET // (cohort * epochs * PATIENTS)


cells = [
    (clients, cohort, epochs, rounds(cohort, epochs), rounds(cohort, epochs) // 4)
    for clients, cohorts in COHORTS.items()
    for cohort in cohorts
    for epochs in (1, 4)
]

study = Study(
    base=Experiment(
        name="clients at a fixed budget",
        data=Phantom(
            test_clients=10,
            test_patients=32,
            sites=SITES,
            lesions=LesionModel(size=1.5, contrast=1.5, distractors=0.15),
        ),
        task=Classify(network=CNNSettings(widths=(16, 32, 64)), preprocess=Preprocess(size=32)),
        local=LocalTraining(batch=8, learning_rate=2e-3),
        sampling=Uniform(),
        algorithm=FedAvg(),
        plan=Plan(tune_s=0),
    ),
    axes={
        ("data.clients", "sampling.cohort", "local.epochs", "rounds", "evaluate_every"): cells,
        "seed": range(3),
    },
)
