"""A thousand synthetic hospitals learn to tell brain tumours apart."""

from fedjax_mri.config import Experiment, LocalTraining
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="quickstart",
    data=Phantom(clients=1000, size=64),
    task=Classify(augment=Augment(flip=0.5)),
    local=LocalTraining(epochs=1, batch=16, learning_rate=2e-3),
    sampling=Uniform(cohort=32),
    rounds=60,
    evaluate_every=10,
)
