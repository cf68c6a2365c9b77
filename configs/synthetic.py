"""FedProx on synthetic(1, 1) with 90 % stragglers, as in figure 1 (top left) of its paper; synthetic data.

Command: fedjax-mri train configs/synthetic.py
Expect about 0.37 training loss and 87.7 % accuracy. `python scripts/published.py` runs all cells of its figures;
docs/published.md has their results.
"""

from fedjax_mri.data.synthetic import Synthetic
from fedjax_mri.fed.algorithms.fedprox import FedProx
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.fed.world.conditions import Partial
from fedjax_mri.nets.linear import LinearSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="FedProx, synthetic(1, 1), 90 % stragglers",
    data=Synthetic(alpha=1.0, beta=1.0),
    task=Classify(network=LinearSettings()),
    local=LocalTraining(epochs=20, batch=10, optimizer="optax.sgd", learning_rate=0.01),
    sampling=Uniform(cohort=10),
    conditions=Partial(share=0.9),
    algorithm=FedProx(mu=1.0),
    rounds=200,
    evaluate_every=5,
    plan=Plan(devices=1, lanes=4, tune_s=0),
)
