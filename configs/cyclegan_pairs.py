"""CycleGAN on real CT and T2 MR slices, one hospital for each case; CT and MR of a step are of different slices of it.

Command: fedjax-mri train configs/cyclegan_pairs.py --data.source.root FOLDER
Hardware and time: about six minutes on 2 cores. Expect SSIM .265 to MR and .286 to CT on unseen cases.
Data: FOLDER holds CT/ and MRI/ with slices of the same names. Those of the AANLIB collection have seven cases, of which
two are held out. Its CT is a picture of a display window, so no HU are known.
"""

from fedjax_mri.data.pairs import Pairs
from fedjax_mri.data.unpaired import Unpaired
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.cyclegan import CycleGAN

config = Experiment(
    name="CycleGAN, real pairs",
    data=Unpaired(Pairs("ct-mri-pairs", size=64)),
    task=CycleGAN(
        generator=GeneratorSettings(width=16, blocks=3),
        discriminator=PatchGANSettings(width=16, halvings=2),
        window=None,
    ),
    local=LocalTraining(
        batch=1,
        optimizer="fedjax_mri.tasks.translation.adam",
        learning_rate=5e-4,
        schedule="linear",
        schedule_start=30,
        schedule_rounds=60,
    ),
    sampling=Everyone(),
    rounds=60,
    early=Early("validation/cycle"),
    pictures=True,
    plan=Plan(tune_s=0),
)
