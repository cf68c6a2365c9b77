"""System D at its published size: two hospitals, ResNet-18s at 240 px, Adam 1e-3, 80 rounds of 8 local epochs.

Command: fedjax-mri train configs/fusion_phantom.py
Hardware and time: needs a GPU; not measured.
Data: the phantom (synthetic), two hospitals of 4,000 patients each, since system D has 8,000 pairs. One hospital has CT
only, the other both modalities. There are four classes; system D has two. System D has 1,000 test pairs. Here each of
two unseen sites and each of the two training sites has 500.
"""

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.shift import ModalitySkew
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.fusion import Fuse

SITES = SiteModel(patients_mean=4000.0, patients_sigma=0.0, patients_max=4000)
LESIONS = LesionModel(one_modality=0.4)
PHANTOM = Phantom(clients=2, test_clients=2, test_patients=500, size=240, sites=SITES, lesions=LESIONS)

config = Experiment(
    name="fusion of CT and MR, published size",
    data=ModalitySkew(PHANTOM, ct_only=0.5, mr_only=0.0),
    task=Fuse(heads="client", dropout=0.2, window=(0.0, 80.0), augment=Augment(flip=0.5, rotate_deg=10)),
    local=LocalTraining(epochs=8, batch=16, learning_rate=1e-3),
    sampling=Everyone(),
    rounds=80,
    evaluate_every=5,
    plan=Plan(precision="bf16"),
)
