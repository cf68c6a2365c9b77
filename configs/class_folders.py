"""Class folders of any files, pictures, DICOM series or NIfTI volumes, whose hospitals are those of the DICOM headers.

Command: fedjax-mri train configs/class_folders.py --data.root FOLDER
Data: FOLDER/CLASS/... or FOLDER/CLASS/PATIENT/...; of volumes each axial slice is an image. Patients stay together.
Without DICOM headers, deal them to hospitals: --data.sites partition (docs/data.md).
"""

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.folder import Folder
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="class folders",
    data=Folder("scans", size=64, split="grouped", layout="class/patient", sites="header", holdout=0.2, validation=0.2),
    task=Classify(network=CNNSettings(widths=(16, 32, 64, 128)), augment=Augment(flip=0.5, rotate_deg=10)),
    local=LocalTraining(epochs=1, batch=16, learning_rate=1e-3, schedule="cosine", schedule_end=0.05),
    sampling=Everyone(),
    rounds=20,
    evaluate_every=2,
    early=Early("validation/nll"),
)
