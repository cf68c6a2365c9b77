"""Images and labels of one .npz file, in four hospitals or in those that it names; MedMNIST's files as they are.

Command: fedjax-mri train configs/arrays.py --data.path FILE.npz
Data: FILE.npz holds `images` and `labels`, perhaps `sites`, `patients` and `splits` (docs/data.md), or is a file of
MedMNIST, such as pneumoniamnist.npz. Images may have any size; a network of four stages needs 16 px or more.
"""

import pathlib
from dataclasses import replace

from fedjax_mri.data.arrays import Arrays
from fedjax_mri.data.partition import IID
from fedjax_mri.run.config import load

folders = load(pathlib.Path(__file__).with_name("class_folders.py"))[""]  # the same recipe
config = replace(folders, name="arrays", data=Arrays("images.npz", partition=IID(4)))
