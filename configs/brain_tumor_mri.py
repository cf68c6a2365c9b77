"""Real brain MR slices in four hospitals, on the published split and on one without leaks (system B).

Command: fedjax-mri train configs/brain_tumor_mri.py --data.root PATH
Hardware and time: about ten minutes on 2 cores. Expect 59 % accuracy on the published split, 81 % on the grouped one.
Data: PATH holds Training/ and Testing/, each with a folder of images for each class.
"""

from dataclasses import replace

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.folder import Folder
from fedjax_mri.data.partition import Sizes
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.tasks.classify import Classify

published = Experiment(
    name="brain tumour MRI, published split",
    data=Folder("brain-tumor-mri", size=64, partition=Sizes((5000, 6000, 6500, 5401))),
    task=Classify(
        network=CNNSettings(widths=(16, 32, 64, 128)),
        augment=Augment(flip=0.5, rotate_deg=15, zoom=0.1, brightness=0.1),
    ),
    local=LocalTraining(epochs=1, batch=16, learning_rate=1e-3, schedule="cosine", schedule_end=0.05),
    sampling=Everyone(),
    rounds=40,
    evaluate_every=10,
)

configs = {
    "published": published,
    "grouped": replace(
        published, name="brain tumour MRI, grouped split", data=replace(published.data, split="grouped")
    ),
}
