"""How far may hospitals compress what they send, and what does it save on slow links (synthetic)?

Command: fedjax-mri sweep studies/compression.py
Hardware and time: six minutes of processor time.
Data: the phantom at 64 px, resized to 32, with 20 hospitals of which all take part in each round. Links are 10 Mbit/s
up and 50 down. What is learnt does not depend on links: `python scripts/compression_table.py RUN` computes the seconds
on the virtual clock for links of 1 and 100 Mbit/s from the bytes.
"""

from dataclasses import replace

from fedjax_mri.data.augment import Preprocess
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.precomputed import Precomputed
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.fed.uplink.stages.cast import Cast
from fedjax_mri.fed.uplink.stages.drive import Drive
from fedjax_mri.fed.uplink.stages.lowrank import LowRank
from fedjax_mri.fed.uplink.stages.qsgd import QSGD
from fedjax_mri.fed.uplink.stages.randk import RandK
from fedjax_mri.fed.uplink.stages.scaledsign import ScaledSign
from fedjax_mri.fed.uplink.stages.topk import TopK
from fedjax_mri.fed.world.conditions import Stragglers
from fedjax_mri.fed.world.speeds import ClientSpeeds
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify

USUAL = SiteModel()
OTHERS = ("t1_spin_echo", "t2_spin_echo", "flair", "spgr")
SITES = replace(  # one MR sequence everywhere; hospitals differ in their labels and sizes
    USUAL,
    class_alpha=1.0,
    mr_noise=(0.01, 0.03),
    bias_field=(0.0, 0.2),
    patients_mean=30.0,
    patients_max=60,
    **{name: replace(getattr(USUAL, name), share=0.0) for name in OTHERS},
)
EACH = {  # what is sent up, and what is sent down
    "nothing": ((), None),
    "cast int8": ((Cast(to="int8"),), None),
    "qsgd": ((QSGD(),), None),
    "lowrank": ((LowRank(),), None),
    "scaledsign": ((ScaledSign(),), None),
    "drive": ((Drive(block=1024),), None),
    "topk 1 %": ((TopK(share=0.01),), None),
    "topk 1 %, EF21": ((TopK(share=0.01, feedback="ef21"),), None),
    "randk 1 %": ((RandK(share=0.01),), None),
    "drive 1/4, drive down": ((Drive(share=0.25, block=1024),), Drive(block=1024)),
}

study = Study(
    base=Experiment(
        name="compression",
        data=Precomputed(
            Phantom(
                clients=20,
                test_clients=20,
                test_patients=16,
                sites=SITES,
                lesions=LesionModel(size=1.5, contrast=1.5, distractors=0.15),
            )
        ),
        task=Classify(network=CNNSettings(widths=(8, 16, 32)), preprocess=Preprocess(size=32)),
        local=LocalTraining(epochs=1, batch=8, learning_rate=3e-3),
        sampling=Everyone(),
        conditions=Stragglers(speeds=ClientSpeeds(mbit_sigma=0.0)),
        rounds=30,
        evaluate_every=5,
        plan=Plan(tune_s=0),
    ),
    axes={
        ("uplink.stages", "downlink"): EACH,
        "seed": range(3),
    },
)
