"""Federations from image-classification data sets of tensorflow_datasets, read without TensorFlow.

Records are read by number through `tfds.data_source` and Grain, so the files must be of its format array_record.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.data import decoding, duplicates, labelled, labelled_images
from fedjax_mri.data.contract import Federation, Table, Test
from fedjax_mri.data.decoding import DecodedSource
from fedjax_mri.data.files.images import DecodedImage
from fedjax_mri.data.image_table import SITE_REMEDY
from fedjax_mri.data.labelled import SIDE_OF, TEST, TRAINING, Labelled
from fedjax_mri.data.partition import Partition, Sizes
from fedjax_mri.data.scans import LoadedImages


@dataclass(frozen=True)
class TFDS:
    """A data set by its name; batches are {"image": uint8 [B, size, size, channels], "label": int32 [B]}.

    Splits named train, validation and test are these; where one is missing, a share is held out. Others are not used.
    """

    name: str  # as in tfds.builder: "beans", "name/config:1.0.0"
    folder: str = ""  # that holds the data sets; "": that of tensorflow_datasets
    download: bool = False  # whether to fetch what is not there
    image: str = ""  # names of features; "": the one image and the one class label that there is
    label: str = ""
    patient: str = ""  # "": there is none
    site: str = ""  # "": a partition deals the images to hospitals
    size: int = 96
    channels: int = 1  # 1 grey, 3 RGB
    cached: bool = False  # images are kept in a file of the user's cache and need not fit into memory
    holdout: float = 0.15  # share that tests where there is no split of that name
    validation: float = 0.1  # share of the training images that validates where there is no such split; 0: none
    partition: Partition = Sizes((1, 1, 1, 1))

    def build(self, seed: int) -> Federation:
        """Returns the federation of hospitals by site, or by the partition.

        Raises UserError on a data set that is missing or of another kind.
        """
        read, examples, lines = self._read()
        shares = (self.holdout, self.validation)
        return labelled_images.federation(self.name, read, examples, shares, self.partition, seed, TEST, lines=lines)

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns all images as one test set.

        Raises UserError on a class that is not among the `classes` of a model.
        """
        read, examples, _ = self._read()
        known = labelled.with_classes(self.name, examples, classes)
        return {self.name: labelled.one_test(known)}, labelled_images.quarantine_table(read)

    def _read(self) -> tuple[LoadedImages, Labelled, list[str]]:
        """Returns the images of all splits with a side, these as examples, and a line on other splits."""
        builder = open_builder(self.name, self.folder, self.download)
        image, label = feature(builder, "Image", self.image), feature(builder, "ClassLabel", self.label)
        side_of = {split: side for split, side in SIDE_OF.items() if split in builder.info.splits}
        if TRAINING not in side_of.values():
            raise UserError(f"{self.name}: no split train, found {', '.join(builder.info.splits) or 'none'}")
        records = {split: random_access(builder, split) for split in side_of}
        places = [(split, number) for split, part in records.items() for number in range(len(part))]

        def read(place: tuple[str, int]) -> DecodedSource:
            record = records[place[0]][place[1]]
            patient, site = (text(record[name]) if name else "" for name in (self.patient, self.site))
            pixels = np.asarray(record[image])
            found = DecodedSource(label=text(record[label]), patient=patient, site=site)
            if pixels.dtype.kind == "f" and not (pixels.min() >= 0 and pixels.max() <= 1):
                said = f"floats from {pixels.min():g} to {pixels.max():g}"
                return found._replace(reason=f"{said}: write the data set with values from 0 to 1")
            return found._replace(images=[decode_record(pixels, self.size, self.channels)])

        facts = [str(builder.data_path), len(places), image, label, self.patient, self.site, self.size, self.channels]
        names = [f"{split} record {number}" for split, number in places]
        whole = LoadedImages(decoding.decode_sources(places, read, names, facts if self.cached else None), names, [])
        classes = tuple(builder.info.features[label].names)
        labels = [classes[int(number)] for number in whole.images.labels]
        subsets = [side_of[split] for split, _ in places]
        sites = whole.images.sites.tolist() if self.site else None
        examples = labelled_images.examples(
            self.name, whole, classes, labels, subsets, sites, [""] * len(labels), SITE_REMEDY
        )
        unused = ", ".join(sorted(builder.info.splits.keys() - side_of))
        return whole, examples, [f"unused splits: {unused}"] * bool(unused)


def open_builder(name: str, folder: str, download: bool) -> Any:
    """Returns the builder of a data set that is there, or is fetched.

    Raises UserError where it is not, or cannot be read.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"data.name={name}: needs tensorflow-datasets ({short_message(error)}): pip install it"
        ) from error
    place = str(Path(folder).expanduser()) if folder else None
    try:
        builder = tfds.builder(name, data_dir=place, try_gcs=False)
        if download:
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # whatever a builder raises
        first = str(error).partition("\n")[0]
        raise UserError(f"{name}: {first[:200] or type(error).__name__}: check data.name and data.folder") from error
    if not Path(builder.data_path).is_dir():
        raise UserError(f"{builder.data_path}: the data set is not there: set data.folder, or give --data.download")
    return builder


def random_access(builder: Any, split: str) -> Any:
    """Returns the records of a split by number.

    Raises UserError where its files are of another format than array_record.
    """
    try:
        return builder.as_data_source(split=split)
    except Exception as error:
        raise UserError(
            f"{builder.data_path}: cannot be read by number ({short_message(error)}): write it as array_record, with "
            "builder.download_and_prepare(file_format='array_record') or tfds.convert_format"
        ) from error


def feature(builder: Any, kind: str, name: str) -> str:
    """Returns the feature of that name, or the only one of its kind.

    Raises UserError where there is not exactly one.
    """
    features = builder.info.features
    fitting = [one for one in features if type(features[one]).__name__ == kind]
    if name in fitting:
        return name
    if name or len(fitting) != 1:
        wanted = f"{kind} feature {name!r}" if name else f"single {kind} feature"
        field = "data.image" if kind == "Image" else "data.label"
        raise UserError(f"{builder.info.name}: no {wanted}, found {', '.join(fitting) or 'none'}: set {field}")
    return fitting[0]


def decode_record(pixels: np.ndarray, size: int, channels: int) -> DecodedImage:
    """Returns an image [h, w, C] of a record in a black square, its proportions kept, with what tells its copies.

    Of integers the largest of their type is white, of floats 1.
    """
    from PIL import Image, ImageOps

    if pixels.dtype != np.uint8:
        white = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1.0
        pixels = np.rint(pixels.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]).convert("RGB")
    square = ImageOps.pad(picture.convert("L" if channels == 1 else "RGB"), (size, size), Image.Resampling.LANCZOS)
    shown = np.asarray(square).reshape(size, size, channels)
    return DecodedImage(shown, duplicates.exact(picture), *duplicates.perceptual_pair(picture))


def text(value: Any) -> str:
    """Returns a feature's value as text."""
    return value.decode() if isinstance(value, bytes) else str(value)
