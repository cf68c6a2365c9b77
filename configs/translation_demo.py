"""CycleGAN, pix2pix and UNIT side by side, small enough for two cores: nine hospitals learn to turn CT into MR.

Command: fedjax-mri train configs/translation_demo.py
Then:    fedjax-mri evaluate runs/translation_demo/cyclegan runs/translation_demo/pix2pix runs/translation_demo/unit
Hardware and time: under 15 minutes for each method on 2 cores. docs/translation.md has the results.
Data: the phantom at 64 px (synthetic) with T2 spin echo everywhere. Sites differ in field strength, timing, noise, bias
field and CT kernel. CycleGAN and UNIT never see CT and MR of the same patient in one step; pix2pix needs both.
"""

from dataclasses import replace

from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.unpaired import Unpaired
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.translation import PatchGANSettings
from fedjax_mri.nets.unet import UNetSettings
from fedjax_mri.nets.unit import ScalesSettings, UNITSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.cyclegan import CycleGAN
from fedjax_mri.tasks.extras import Extras
from fedjax_mri.tasks.pix2pix import Pix2Pix
from fedjax_mri.tasks.unit import UNIT

USUAL = SiteModel()
OTHERS = ("t1_spin_echo", "t1_gadolinium", "flair", "spgr")
SITES = replace(
    USUAL,
    t2_spin_echo=replace(USUAL.t2_spin_echo, share=1.0),
    mr_noise=(0.01, 0.03),
    bias_field=(0.0, 0.2),
    ct_noise=(1.0, 2.5),
    patients_mean=32.0,
    patients_sigma=0.3,
    patients_max=64,
    **{name: replace(getattr(USUAL, name), share=0.0) for name in OTHERS},
)
PHANTOM = Phantom(clients=9, test_clients=9, test_patients=8, size=64, sites=SITES)
WINDOW = (-40.0, 100.0)  # HU; narrow, so that fluid and brain can be told apart
JUDGE = PatchGANSettings(width=16, halvings=2)
PHYSICS = Extras(biophysical=40.0)  # without pairs, this ties the generated MR to the tissue that the CT shows
SHALLOW = UNetSettings(depth=4, width=24, norm="instance", dropout=0.0)
ADVERSARIAL = LocalTraining(
    epochs=1,
    batch=1,
    optimizer="fedjax_mri.tasks.translation.adam",
    learning_rate=2e-3,  # ten times the usual: the mean over nine hospitals is less noisy than one hospital
    schedule="linear",
    schedule_start=20,
)
BASE = Experiment(
    data=Unpaired(PHANTOM),
    local=ADVERSARIAL,
    sampling=Everyone(),
    rounds=60,
    evaluate_every=10,
    early=Early("validation/cycle"),
    pictures=True,
    plan=Plan(tune_s=0),
)

configs = {
    "cyclegan": replace(
        BASE,
        name="CycleGAN",
        task=CycleGAN(generator=SHALLOW, discriminator=JUDGE, window=WINDOW, extras=PHYSICS),
    ),
    "pix2pix": replace(
        BASE,
        name="pix2pix",
        data=PHANTOM,
        task=Pix2Pix(
            generator=UNetSettings(depth=5, width=24, norm="instance"), discriminator=JUDGE, window=WINDOW, gan="lsgan"
        ),
        early=Early("validation/l1"),
    ),
    "unit": replace(
        BASE,
        name="UNIT",
        task=UNIT(
            generator=UNITSettings(width=16, blocks=2),
            discriminator=ScalesSettings(16, 3, 2),
            window=WINDOW,
            extras=PHYSICS,
        ),
        local=replace(ADVERSARIAL, optimizer="fedjax_mri.tasks.unit.adam", learning_rate=1e-3, schedule_start=10),
        rounds=30,
    ),
}
