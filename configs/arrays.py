"""Images and labels of one .npz file, in four hospitals or in those that it names; MedMNIST's files as they are.

Command: fedjax-mri train configs/arrays.py --data.path FILE.npz
Data: FILE.npz holds `images` and `labels`, perhaps `sites`, `patients` and `splits` (docs/data.md), or is a file of
MedMNIST, such as pneumoniamnist.npz. Images may have any size; a network of four stages needs 16 px or more.
"""

from fedjax_mri.data.arrays import Arrays
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.partition import IID
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="arrays",
    data=Arrays("images.npz", partition=IID(4)),
    task=Classify(network=CNNSettings(widths=(16, 32, 64, 128)), augment=Augment(flip=0.5, rotate_deg=10)),
    local=LocalTraining(epochs=1, batch=16, learning_rate=1e-3, schedule="cosine", schedule_end=0.05),
    sampling=Everyone(),
    rounds=20,
    evaluate_every=2,
    early=Early("validation/nll"),
)
