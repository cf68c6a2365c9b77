"""pix2pix at its published size: U-Net-256, conditional 70 x 70 PatchGAN, 256 px, batches of one, Adam 2e-4.

Command: fedjax-mri train configs/pix2pix_phantom.py
Hardware and time: needs a GPU; not measured.
Data: the hospitals of cyclegan_phantom.py (synthetic), with CT and MR of the same patients.
"""

import pathlib
import runpy
from dataclasses import replace

from fedjax_mri.run.early import Early
from fedjax_mri.tasks.pix2pix import Pix2Pix

unpaired = runpy.run_path(str(pathlib.Path(__file__).with_name("cyclegan_phantom.py")))["config"]
early = Early("validation/l1", patience=5)
config = replace(unpaired, name="pix2pix", data=unpaired.data.source, task=Pix2Pix(), early=early)
