"""UNIT at its published size: codes of 256 channels, discriminators of three scales, 256 px, batches of one, Adam 1e-4.

Command: fedjax-mri train configs/unit_phantom.py
Hardware and time: needs a GPU; not measured. Data: the hospitals of cyclegan_phantom.py (synthetic), unpaired.
"""

import pathlib
import runpy
from dataclasses import replace

from fedjax_mri.tasks.unit import UNIT

cyclegan = runpy.run_path(str(pathlib.Path(__file__).with_name("cyclegan_phantom.py")))["config"]
local = replace(cyclegan.local, optimizer="fedjax_mri.tasks.unit.adam", learning_rate=1e-4)
config = replace(cyclegan, name="UNIT", task=UNIT(), local=local)
