"""Images that a table lists (CSV or TSV): path, label, and perhaps patient, site and split of each.

Command: fedjax-mri train configs/image_table.py --data.table TABLE.csv --data.path image_id --data.label dx
         --data.patient lesion_id
Data: as dermoscopy (HAM10000: the flags above) and chest X-rays are published; docs/data.md has more.
"""

import pathlib
from dataclasses import replace

from fedjax_mri.data.image_table import ImageTable
from fedjax_mri.run.config import load

folders = load(pathlib.Path(__file__).with_name("class_folders.py"))[""]  # the same recipe
config = replace(folders, name="image table", data=ImageTable("labels.csv", size=64, channels=3))
