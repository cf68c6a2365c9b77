"""Real brain MR slices, four hospitals, a split without leaks: the recipe that is after accuracy (systems A, B, E).

Command: fedjax-mri train configs/brain_tumor_federated.py --data.root PATH
Data: 2,609 slices of four classes, 446 groups of duplicates; no group is on both sides (see data/folder.py).
The network has four stages of two 3 x 3 convolutions. A prediction is the mean over an image and its mirror image.
"""

from fedjax_mri.config import Experiment, LocalTraining
from fedjax_mri.data.augment import Augment, Preprocess
from fedjax_mri.data.folder import FOUR_HOSPITALS, Folder
from fedjax_mri.fed.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.head import HeadSettings
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="brain tumour MRI, four hospitals",
    data=Folder("brain-tumor-mri", size=96, split="grouped", partition=FOUR_HOSPITALS),
    task=Classify(
        network=CNNSettings(
            widths=(16, 32, 64, 128), convs=2, residual=True, pool="mean", head=HeadSettings(dropout=0.2)
        ),
        label_smoothing=0.1,
        mixup=0.3,
        mirror=True,
        preprocess=Preprocess(normalise="zscore"),
        augment=Augment(flip=0.5, rotate_deg=15, zoom=0.1, crop=0.15, brightness=0.1, contrast=0.2),
    ),
    local=LocalTraining(epochs=2, batch=16, learning_rate=2e-3, decay=0.05, schedule="onecycle"),
    sampling=Everyone(),
    rounds=60,
    evaluate_every=10,
    plan=Plan(tune_s=0),
)
