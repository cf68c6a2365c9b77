"""How much does fusion of CT and MR gain when more hospitals lack one of the two (system D; synthetic)?

Command: fedjax-mri sweep studies/fusion.py
Hardware and time: about ten minutes on 2 cores.
Data: the hospitals of configs/fusion_demo.py, drawn once and resized to 32 px. Of the hospitals that lack a modality,
half have CT only and half MR only, in training and in test. Every method has the same encoders, heads and training;
images fused by a classical rule enter the network for CT only. studies/fusion_by_data.py varies the share of the data
instead.
"""

import pathlib
import runpy
from dataclasses import replace

from fedjax_mri.nets.fusion import Cross, Early, Late
from fedjax_mri.study.study import Study

demo = runpy.run_path(str(pathlib.Path(__file__).parent.parent / "configs" / "fusion_demo.py"))
DEMO, ENCODER = demo["config"], demo["ENCODER"]
ALONE = Late(("ct",), ENCODER, hidden=64)

base = replace(
    DEMO,
    name="fusion by missing modalities",
    task=replace(DEMO.task, heads="shared"),
    rounds=50,
    evaluate_every=50,
)
NEURAL = {
    "cross-attention": (Cross(ENCODER, ENCODER, width=32, heads=2, hidden=64), "none"),
    "early": (Early(ENCODER, hidden=64), "none"),
    "late": (Late(encoder=ENCODER, hidden=64), "none"),
    "CT alone": (ALONE, "none"),
    "MR alone": (Late(("mr",), ENCODER, hidden=64), "none"),
}
CLASSICAL = {rule: (ALONE, rule) for rule in ("average", "pca", "wavelet")}

study = Study(
    base=base,
    axes={
        ("task.network", "task.classical"): {**NEURAL, **CLASSICAL},
        ("data.ct_only", "data.mr_only"): {share: (share / 2, share / 2) for share in (0.0, 0.25, 0.5, 0.75)},
        "seed": range(3),
    },
)
