"""A thousand synthetic hospitals learn to tell brain tumours apart.

Command: fedjax-mri train configs/quickstart.py (or `make run`)
Data: the phantom, procedural; log-normal sizes, Dirichlet label skew, scanners that differ in everything.
"""

from fedjax_mri.config import Experiment, LocalTraining
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.tasks.classify import Classify

# Milder than the phantom's defaults, so that five minutes suffice.
SITES = SiteModel(class_alpha=6.0, mr_noise=(0.01, 0.04), bias_field=(0.0, 0.2), tilt=5.0)
LESIONS = LesionModel(size=1.5, contrast=1.5, distractors=0.15, high_grade=0.85)

config = Experiment(
    name="quickstart",
    data=Phantom(clients=1000, test_clients=100, test_patients=16, size=64, sites=SITES, lesions=LESIONS),
    task=Classify(widths=(16, 32, 64, 96), augment=Augment(flip=0.5)),
    local=LocalTraining(epochs=1, batch=4, learning_rate=2e-3, schedule="cosine", schedule_end=0.1),
    sampling=Uniform(cohort=32),
    algorithm=FedAvg(server_rate=2.0),
    rounds=150,
    evaluate_every=15,
)
