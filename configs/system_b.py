"""System B: chest X-rays, brain MR and dermoscopy, each by four hospitals, and all three by one model.

Command: fedjax-mri train configs/system_b.py --only chest
         fedjax-mri train configs/system_b.py --only chest --data.root PATH
Hardware: a GPU; 50 rounds at 224 px. `system_b_demo.py` is the same, small enough for two cores.
Data: by default synthetic, the phantoms of thorax, head and skin. Files take their place by a flag:
  chest  --data.root PATH         train/, test/ (and val/) with a folder each of NORMAL and PNEUMONIA
  brain  --data.source.root PATH  Training/ and Testing/, each with a folder for each class; three become one
  skin   --data.root PATH         HAM10000_metadata.csv, with its pictures in folders beside it; lesions stay together
In an experiment that ends in _centralised, a flag has one more "source." after "data.": --data.source.root. In `mixed`
it names the source: --data.sources.0.root, --data.sources.1.source.root, --data.sources.2.root.
The hospitals have 5,000, 6,000, 6,500 and 5,401 images, which are all images of the three data sets: so each hospital
has its share of each.
"""

import pathlib
from dataclasses import replace

from fedjax_mri.data.augment import Augment, Preprocess
from fedjax_mri.data.combined import CombinedSources
from fedjax_mri.data.folder import FOUR_HOSPITALS, Folder
from fedjax_mri.data.image_table import ImageTable
from fedjax_mri.data.merge import MergeClasses
from fedjax_mri.data.phantom.skin import Skin, SkinSites
from fedjax_mri.data.phantom.thorax import Thorax, ThoraxSites
from fedjax_mri.data.pooled import Pooled
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.data.standin import StandIn
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining, load
from fedjax_mri.tasks.classify import Classify

SIZE = 224  # pixels
HOSPITALS = {"clients": 4, "test_clients": 4, "test_patients": 100, "size": SIZE}
ALIKE = {"class_alpha": 100.0, "patients_shares": FOUR_HOSPITALS.sizes}  # images are dealt at random


CHEST = StandIn(
    Folder("", size=SIZE, train="train", test="test"),
    Precomputed(Thorax(**HOSPITALS, sites=ThoraxSites(**ALIKE, patients_total=5863))),
)
HEAD = load(pathlib.Path(__file__).with_name("quickstart.py"))[""].data  # with its tumours and scanners
TUMOURS = ("glioma", "glioma_tumor", "meningioma", "meningioma_tumor", "pituitary", "pituitary_tumor")
BRAIN = MergeClasses(
    StandIn(
        Folder("", size=SIZE),
        Precomputed(replace(HEAD, **HOSPITALS, sites=replace(HEAD.sites, **ALIKE, patients_total=7023))),
    ),
    (*((name, "tumour") for name in TUMOURS), *((name, "no tumour") for name in ("no tumour", "no_tumor", "notumor"))),
)
SKIN = StandIn(
    ImageTable("", "", "image_id", ("dx",), "lesion_id", size=SIZE, channels=3, partition=FOUR_HOSPITALS),
    Precomputed(Skin(**HOSPITALS, sites=SkinSites(**ALIKE, patients_total=10015))),
    field="table",
)
MIXED = CombinedSources((CHEST, BRAIN, SKIN), ("chest", "brain", "skin"))

TASK = Classify(
    network=CNNSettings(widths=(32, 64, 128, 128, 128), hidden=128, norm="batch"),
    preprocess=Preprocess(SIZE, denoise="median", contrast="clahe", normalise="zscore"),
    augment=Augment(flip=0.5, rotate_deg=15, zoom=0.1, crop=0.1, brightness=0.1),
)
IN_COLOUR = replace(TASK, preprocess=replace(TASK.preprocess, contrast="stretch"))  # one look-up for each colour
FEDERATED = Experiment(
    name="chest X-ray",
    data=CHEST,
    task=TASK,
    local=LocalTraining(epochs=1, batch=32, optimizer="optax.adam", learning_rate=1e-3),
    sampling=Everyone(),
    rounds=50,
    evaluate_every=5,
    explanations=("gradcam",),
)

federated = {
    "chest": FEDERATED,
    "brain": replace(FEDERATED, name="brain MR", data=BRAIN),
    "skin": replace(FEDERATED, name="dermoscopy", data=SKIN, task=IN_COLOUR),
    "mixed": replace(FEDERATED, name="chest X-ray, brain MR and dermoscopy", data=MIXED, task=IN_COLOUR),
}
centralised = {
    f"{name}_centralised": replace(
        one, name=f"{one.name}, centralised", data=Pooled(one.data), plan=Plan(devices=1), explanations=()
    )
    for name, one in federated.items()
}
configs = federated | centralised
