"""A thousand synthetic hospitals learn to tell brain tumours apart.

Command: fedjax-mri train configs/quickstart.py (or `make run`)
Data: the phantom, procedural; log-normal sizes, Dirichlet label skew, scanners that differ in everything.
"""

from fedjax_mri.config import Experiment, LocalTraining
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="quickstart",
    data=Phantom(clients=1000, test_clients=100, test_patients=16, size=64),
    task=Classify(widths=(16, 32, 64, 96), augment=Augment(flip=0.5)),
    local=LocalTraining(epochs=1, batch=4, learning_rate=2e-3, schedule="cosine", schedule_end=0.05),
    sampling=Uniform(cohort=32),
    rounds=130,
    evaluate_every=13,
)
