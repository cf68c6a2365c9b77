"""The rules and attacks of studies/robustness.py with four hospitals, of which one attacks.

Command: fedjax-mri sweep studies/robustness_four.py
Hardware and time: less than studies/robustness.py, whose programs and data it has.
Data: as there.
"""

from robustness import robustness

study = robustness(hospitals=4, faulty=1)
