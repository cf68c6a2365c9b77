"""A classifier of brain tumours whose models do not tell which hospitals took part: client-level privacy, epsilon 8.

Command: fedjax-mri train configs/private.py
Hardware and time: not measured yet.
Data: the phantom (synthetic), 2,000 hospitals. Each takes part in a round with probability .05; delta is 1e-5.
"""

from dataclasses import replace

from quickstart import config as quickstart

from fedjax_mri.fed.privacy.client import Client
from fedjax_mri.fed.sampling import Poisson

config = replace(
    quickstart,
    name="private, epsilon 8",
    data=replace(quickstart.data, clients=2000),
    sampling=Poisson(0.05),
    privacy=Client(epsilon=8.0, delta=1e-5, clip=0.5),
)
