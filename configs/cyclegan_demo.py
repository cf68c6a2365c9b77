"""CycleGAN: unpaired CT to MR and back, learnt by nine synthetic hospitals on two cores.

Command: fedjax-mri train configs/cyclegan_demo.py
Hardware and time: under 15 minutes on 2 cores. Data: the phantom at 64 px (synthetic); see translation_demo.py.
"""

import pathlib
import runpy

config = runpy.run_path(str(pathlib.Path(__file__).with_name("translation_demo.py")))["configs"]["cyclegan"]
