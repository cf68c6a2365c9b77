"""Descriptions of data that is not there."""

from fedjax_mri.data.contract import DataDescription


def described(image: tuple[int, ...], classes: int = 0, labels: tuple[int, ...] = ()) -> DataDescription:
    """Images of that shape, of classes "0", "1", ..."""
    return DataDescription(image, tuple(map(str, range(classes))), 1, labels)
