"""pix2pix at its published size: U-Net-256, conditional 70 x 70 PatchGAN, 256 px, batches of one, Adam 2e-4.

Command: fedjax-mri train configs/pix2pix_phantom.py
Hardware and time: a GPU; 20 hospitals of some 40 patients (synthetic), paired.
"""

from fedjax_mri.config import Experiment, LocalTraining
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.early import Early
from fedjax_mri.fed.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.tasks.pix2pix import Pix2Pix

config = Experiment(
    name="pix2pix",
    data=Phantom(clients=20, test_clients=10, test_patients=8, size=256),
    task=Pix2Pix(),
    local=LocalTraining(
        batch=1,
        optimizer="fedjax_mri.tasks.translation.adam",
        learning_rate=2e-4,
        schedule="linear",
        schedule_start=100,
        schedule_rounds=200,
    ),
    sampling=Uniform(cohort=10),
    rounds=200,
    early=Early("unseen sites/l1", patience=5),
    pictures=True,
    plan=Plan(precision="bf16"),
)
