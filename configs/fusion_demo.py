"""Fusion of CT and MR by cross-attention, learnt by ten synthetic hospitals, half of which lack a modality (system D).

Command: fedjax-mri train configs/fusion_demo.py
Hardware and time: a few minutes on 2 cores.
Data: the phantom at 64 px (synthetic), resized to 32; T1 with gadolinium everywhere. Six tumours in ten are visible in
only one modality, half of them in CT, so neither modality is enough. Each hospital has its own head ("fusion" in the
figures) beside the head that all share ("server").
"""

from dataclasses import replace

from fedjax_mri.data.augment import Augment, Preprocess
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.data.shift import ModalitySkew
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.fusion import Cross
from fedjax_mri.nets.resnet import ResNetEncoder
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.fusion import Fuse

USUAL = SiteModel()
OTHERS = ("t1_spin_echo", "t2_spin_echo", "flair", "spgr")
SITES = replace(
    USUAL,
    class_alpha=10.0,
    mr_noise=(0.01, 0.03),
    bias_field=(0.0, 0.2),
    ct_noise=(1.0, 2.0),
    tilt=5.0,
    patients_mean=40.0,
    patients_sigma=0.3,
    patients_max=80,
    **{name: replace(getattr(USUAL, name), share=0.0) for name in OTHERS},
)
LESIONS = LesionModel(size=1.5, contrast=1.5, distractors=0.1, high_grade=0.85, one_modality=0.6)
PHANTOM = Phantom(clients=10, test_clients=10, test_patients=24, sites=SITES, lesions=LESIONS)
ENCODER = ResNetEncoder(width=8, stages=2)  # 4 x 4 tokens of 16 channels at 32 px

config = Experiment(
    name="fusion of CT and MR",
    data=ModalitySkew(Precomputed(PHANTOM, fields=("ct", "mr", "label")), ct_only=0.3, mr_only=0.2),
    task=Fuse(
        network=Cross(ct=ENCODER, mr=ENCODER, width=32, heads=2, hidden=64),
        heads="client",
        dropout=0.2,
        window=(0.0, 80.0),
        preprocess=Preprocess(size=32),
        augment=Augment(flip=0.5),
    ),
    local=LocalTraining(epochs=1, batch=8, learning_rate=3e-3, schedule="cosine", schedule_end=0.05),
    sampling=Everyone(),
    rounds=40,
    evaluate_every=10,
    plan=Plan(tune_s=0),
)
