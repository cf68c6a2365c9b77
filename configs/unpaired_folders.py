"""CycleGAN on CT and MR of different patients, from two folders of DICOM series, NIfTI volumes or pictures.

Command: fedjax-mri train configs/unpaired_folders.py --data.root FOLDER
Data: FOLDER/ct and FOLDER/mr hold a folder or a volume for each patient; hospitals are the institutions of the DICOM
headers. For NIfTI, which names none, add --data.sites partition; for pictures also --task.window None (docs/data.md).
Nothing is known of which slices belong together, so figures that need a truth, such as SSIM, are nan.
"""

from fedjax_mri.data.unpaired_folders import UnpairedFolders
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.translation import GeneratorSettings, PatchGANSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.cyclegan import CycleGAN

config = Experiment(
    name="CycleGAN, two folders",
    data=UnpairedFolders("scans", size=64),
    task=CycleGAN(
        generator=GeneratorSettings(width=16, blocks=3),
        discriminator=PatchGANSettings(width=16, halvings=2),
        window=(-100.0, 300.0),
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
    evaluate_every=5,
    early=Early("validation/cycle"),
    pictures=True,
    plan=Plan(tune_s=0),
)
