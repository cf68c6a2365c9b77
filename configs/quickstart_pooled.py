"""The centralised baseline of the quick-start: the same hospitals, images and network, with all data in one place.

Command: fedjax-mri train configs/quickstart_pooled.py
Hardware and time: six minutes on 2 cores. Expect 95.2 % accuracy on hospitals that took no part.
"""

import pathlib
from dataclasses import replace

from fedjax_mri.data.pooled import Pooled
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.run.config import LocalTraining, load

federated = load(pathlib.Path(__file__).with_name("quickstart.py"))[""]

config = replace(
    federated,
    name="quickstart, centralised",
    data=Pooled(federated.data),
    local=LocalTraining(epochs=1, batch=32, learning_rate=2e-3, schedule="cosine"),
    sampling=Everyone(),
    algorithm=FedAvg(),
    plan=Plan(devices=1, lanes=1),
    rounds=3,  # passes over the pooled data
    evaluate_every=1,
)
