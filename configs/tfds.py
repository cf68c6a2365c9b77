"""An image-classification data set of tensorflow_datasets, dealt to four hospitals; TensorFlow is not needed.

Command: fedjax-mri train configs/tfds.py --data.name NAME --data.folder FOLDER
Data: NAME as tfds.builder takes it; FOLDER holds its files in the format array_record. --data.download fetches them.
"""

import pathlib
from dataclasses import replace

from fedjax_mri.data.tfds import TFDS
from fedjax_mri.run.config import load

folders = load(pathlib.Path(__file__).with_name("class_folders.py"))[""]  # the same recipe
config = replace(folders, name="tfds", data=TFDS("beans", size=64, channels=3))
