"""Does noise that is correlated over rounds beat independent noise at the same epsilon (synthetic)?

Command: fedjax-mri sweep studies/correlated_noise.py
Hardware and time: four minutes on 2 cores that did other work as well.
Data: synthetic iid with 1,000 clients that take part in a fixed cycle, 50 of them in a round, each five times.
"""

from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.sampling import Cyclic
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify

study = Study(
    base=Experiment(
        name="correlated noise",
        data=Synthetic(iid=True, clients=1000, validation=0.1),
        task=Classify(network=LinearSettings()),
        local=LocalTraining(epochs=1, batch=50, optimizer="optax.sgd", learning_rate=0.1),
        sampling=Cyclic(cohort=50),
        privacy=Client(epsilon=8.0, delta=1e-5),
        rounds=100,
        evaluate_every=25,
        plan=Plan(tune_s=0),
    ),
    axes={
        "privacy.bands": [1, 20],
        "algorithm": {f"server rate {rate:g}": FedAvg(server_rate=rate) for rate in (2.0, 4.0, 8.0)},
        "seed": range(8),
    },
)
