"""Fusion of CT and MR by cross-attention on a table of registered pairs with a label; a patient may lack one of both.

Command: fedjax-mri train configs/fusion_table.py --data.table TABLE.csv
Data: TABLE.csv has the columns ct, mr, label and perhaps patient, site, split; --data.site site makes each site a
hospital (docs/data.md). Where CT are pictures, of which no HU are known, add --task.window None.
"""

from fedjax_mri.data.augment import Augment
from fedjax_mri.data.labelled_pairs import LabelledPairs
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.fusion import Cross
from fedjax_mri.nets.resnet import ResNetEncoder
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.run.early import Early
from fedjax_mri.tasks.fusion import Fuse

ENCODER = ResNetEncoder(width=16, stages=3)

config = Experiment(
    name="fusion of CT and MR, a table",
    data=LabelledPairs("pairs.csv", size=64),
    task=Fuse(
        network=Cross(ct=ENCODER, mr=ENCODER, width=32, heads=2, hidden=64),
        dropout=0.2,
        window=(0.0, 80.0),
        augment=Augment(flip=0.5),
    ),
    local=LocalTraining(epochs=1, batch=8, learning_rate=1e-3, schedule="cosine", schedule_end=0.05),
    sampling=Everyone(),
    rounds=40,
    evaluate_every=2,
    early=Early("validation/nll"),
    plan=Plan(tune_s=0),
)
