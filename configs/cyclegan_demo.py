"""CT to MR and back, learnt by nine synthetic hospitals from unpaired patients, small enough for two cores.

Command: fedjax-mri train configs/cyclegan_demo.py
Hardware and time: under 15 minutes on 2 cores. Data: the phantom at 64 px (synthetic); T2 spin echo everywhere, scanners
that differ in field strength, timing, noise, bias field and CT kernel.
"""

from dataclasses import replace

from fedjax_mri.config import Experiment, LocalTraining
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.unpaired import Unpaired
from fedjax_mri.early import Early
from fedjax_mri.fed.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.tasks.cyclegan import CycleGAN

USUAL = SiteModel()
OTHERS = ("t1_spin_echo", "t1_gadolinium", "flair", "spgr")
SITES = replace(
    USUAL,
    t2_spin_echo=replace(USUAL.t2_spin_echo, share=1.0),
    mr_noise=(0.01, 0.03),
    bias_field=(0.0, 0.2),
    patients_mean=32.0,
    patients_sigma=0.3,
    patients_max=64,
    **{name: replace(getattr(USUAL, name), share=0.0) for name in OTHERS},
)
PHANTOM = Phantom(clients=9, test_clients=9, test_patients=8, size=64, sites=SITES)

config = Experiment(
    name="CycleGAN, demo",
    data=Unpaired(PHANTOM),
    task=CycleGAN(
        generator=GeneratorSettings(width=16, blocks=3), discriminator=PatchGANSettings(width=16, halvings=2)
    ),
    local=LocalTraining(
        epochs=1,
        batch=1,
        optimizer="fedjax_mri.tasks.translation.adam",
        learning_rate=5e-4,
        schedule="linear",
        schedule_start=20,
    ),
    sampling=Everyone(),
    rounds=40,
    evaluate_every=10,
    early=Early("unseen sites/cycle"),
    pictures=True,
    plan=Plan(tune_s=0),
)
