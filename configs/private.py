"""A classifier of brain tumours whose models do not tell which hospitals took part: client-level privacy, epsilon 8.

Command: fedjax-mri train configs/private.py
Hardware and time: not measured yet.
Data: the phantom (synthetic), 6,000 hospitals of ten patients on average. Each takes part in a round with probability
.05; delta is 1e-5. The same run without privacy: --fed.privacy off
"""

from dataclasses import replace

from quickstart import SITES
from quickstart import config as quickstart

from fedjax_mri.data.augment import Augment
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.sampling import Poisson
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import LocalTraining
from fedjax_mri.tasks.classify import Classify

config = replace(
    quickstart,
    name="private, epsilon 8",
    data=replace(quickstart.data, clients=6000, sites=replace(SITES, patients_mean=10.0)),
    task=Classify(network=CNNSettings(widths=(8, 16, 32), hidden=16), augment=Augment(flip=0.5)),
    local=LocalTraining(epochs=1, batch=4, learning_rate=2e-3),
    sampling=Poisson(0.05),
    privacy=Client(epsilon=8.0, delta=1e-5, clip=0.5),
    algorithm=FedAvg(),
    rounds=60,
    evaluate_every=20,
)
