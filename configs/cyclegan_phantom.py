"""CycleGAN at its published size: ResNet-9, 70 x 70 PatchGAN, 256 px, batches of one, Adam 2e-4, linear decay.

Command: fedjax-mri train configs/cyclegan_phantom.py
Hardware and time: needs a GPU; not measured. Data: 20 hospitals of some 40 patients (synthetic), unpaired.
"""

from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.unpaired import Unpaired
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Uniform
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.cyclegan import CycleGAN

config = Experiment(
    name="CycleGAN",
    data=Unpaired(Phantom(clients=20, test_clients=10, test_patients=8, size=256)),
    task=CycleGAN(),
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
    early=Early("validation/cycle", patience=5),
    pictures=True,
    plan=Plan(precision="bf16"),
)
