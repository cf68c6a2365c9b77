"""Every classifier on synthetic hospitals and on real slices, at sizes that two cores can train.

Command: fedjax-mri train configs/classifiers.py --only resnet18
         fedjax-mri train configs/classifiers.py --only resnet18_slices --data.root PATH
Data: the phantom at 64 px (synthetic), 20 hospitals as in quickstart.py; or the slices, split and hospitals of
brain_tumor_federated.py. Networks have an eighth to a half of their published width, and GroupNorm in place of
BatchNorm. For full size, on a GPU, add --task.network.width 64 (EfficientNet-B1: 1.0, EfficientNet-B3: 1.2); for VGG16
add also --task.network.hidden 4096 --task.network.grid 7. Without --only all are trained in turn.
"""

import pathlib
from dataclasses import replace

from fedjax_mri.data.augment import Augment
from fedjax_mri.fed.algorithms.fedavg import FedAvg
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.efficientnet import EfficientNetSettings
from fedjax_mri.nets.head import HeadSettings
from fedjax_mri.nets.resnet import ResNetSettings
from fedjax_mri.nets.vgg import VGGSettings
from fedjax_mri.run.config import load
from fedjax_mri.tasks.classify import Classify

HERE = pathlib.Path(__file__)
QUICK = load(HERE.with_name("quickstart.py"))[""]
SLICES = load(HERE.with_name("brain_tumor_federated.py"))[""]
SYSTEM_A = HeadSettings("batch", dropout=0.2)  # TASKS adds L2 on the dense layer

NETWORKS = {
    "cnn": CNNSettings(),
    "resnet18": ResNetSettings(18, width=16),
    "resnet34": ResNetSettings(34, width=16),
    "resnet50": ResNetSettings(50, width=8),
    "vgg16": VGGSettings(width=8, hidden=128, grid=2, norm="group", head=HeadSettings(dropout=0.5)),
    "efficientnet_b1": EfficientNetSettings(0.5, 1.1, head=SYSTEM_A),
    "efficientnet_b3": EfficientNetSettings(0.6, 1.4, head=SYSTEM_A),
}
TASKS = {
    name: Classify(
        network=network,
        augment=Augment(flip=0.5, rotate_deg=15, zoom=0.1),
        label_smoothing=0.1,
        weight_decay=1e-4 if network.head == SYSTEM_A else 0.0,
        decayed=("logits/kernel",) if network.head == SYSTEM_A else (),
    )
    for name, network in NETWORKS.items()
}
PHANTOM = replace(
    QUICK,
    data=replace(QUICK.data, clients=20, test_clients=20),
    local=replace(QUICK.local, batch=8),
    sampling=Everyone(),
    algorithm=FedAvg(),
    rounds=40,
    evaluate_every=10,
)

configs = {name: replace(PHANTOM, name=name, task=task) for name, task in TASKS.items()} | {
    f"{name}_slices": replace(SLICES, name=f"{name}, real slices", task=replace(task, augment=SLICES.task.augment))
    for name, task in TASKS.items()
}
