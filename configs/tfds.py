"""An image-classification data set of tensorflow_datasets, dealt to four hospitals; TensorFlow is not needed.

Command: fedjax-mri train configs/tfds.py --data.name NAME --data.folder FOLDER
Data: NAME as tfds.builder takes it; FOLDER holds its files in the format array_record. --data.download fetches them.
"""

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.tfds import TFDS
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="tfds",
    data=TFDS("beans", size=64, channels=3),
    task=Classify(network=CNNSettings(widths=(16, 32, 64, 128)), augment=Augment(flip=0.5, rotate_deg=10)),
    local=LocalTraining(epochs=1, batch=16, learning_rate=1e-3, schedule="cosine", schedule_end=0.05),
    sampling=Everyone(),
    rounds=20,
    evaluate_every=2,
    early=Early("validation/nll"),
)
