"""Real brain MR slices, four hospitals, a split without leaks: the recipe with the best accuracy (systems A, B, E).

Command: fedjax-mri train configs/brain_tumor_federated.py --data.root PATH
Hardware and time: ten minutes of training on 2 cores. Expect 88.5 % accuracy.
Data: 2,609 slices of four classes, 443 groups of duplicates; no group is on both sides (see fedjax_mri/data/folder.py).
The network has four stages of two 3 x 3 convolutions. A prediction is the mean over an image and its mirror image.
"""

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.folder import FOUR_HOSPITALS, Folder
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="brain tumour MRI, four hospitals",
    data=Folder("brain-tumor-mri", size=64, split="grouped", partition=FOUR_HOSPITALS),
    task=Classify(
        network=CNNSettings(widths=(16, 32, 64, 128), convs=2),
        label_smoothing=0.1,
        mirror=True,
        augment=Augment(flip=0.5, rotate_deg=15, zoom=0.1, brightness=0.1),
    ),
    local=LocalTraining(epochs=1, batch=16, learning_rate=2e-3, schedule="cosine", schedule_end=0.05),
    sampling=Everyone(),
    rounds=100,
    evaluate_every=20,
)
