"""Images that a table lists (CSV or TSV): path, label, and perhaps patient, site and split of each.

Command: fedjax-mri train configs/image_table.py --data.table TABLE.csv --data.path image_id --data.label dx
         --data.patient lesion_id
Data: as dermoscopy (HAM10000: the flags above) and chest X-rays are published; docs/data.md has more.
"""

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.image_table import ImageTable
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.classify import Classify

config = Experiment(
    name="image table",
    data=ImageTable("labels.csv", size=64, channels=3),
    task=Classify(network=CNNSettings(widths=(16, 32, 64, 128)), augment=Augment(flip=0.5, rotate_deg=10)),
    local=LocalTraining(epochs=1, batch=16, learning_rate=1e-3, schedule="cosine", schedule_end=0.05),
    sampling=Everyone(),
    rounds=20,
    evaluate_every=2,
    early=Early("validation/nll"),
)
