"""Writes Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747) as one .npz file that `configs/arrays.py` reads.

    apt-get install dataset-fashion-mnist
    python scripts/fashion_mnist.py fashion.npz

The file holds images uint8 [70000, 28, 28], labels uint8 [70000] and splits: the last tenth of the training images
validates, and the 10,000 test images test. With --scattering the images are float16 [70000, 7, 7, 81] instead: their
scattering transform, which needs --data.channels 81.
"""

import argparse
import gzip
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError, short_message
from fedjax_mri.nets.scattering import scatter

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
CHUNK = 500  # images transformed at once
UNSIGNED_BYTES = 8  # the only type of values that its files have


def main() -> None:
    """Reads the four files of a folder and writes one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--scattering", action="store_true", help="the scattering transform of the images")
    options = parser.parse_args()
    try:
        found = arrays(options.folder)
        images = scattering(found["images"]) if options.scattering else found["images"]
        np.savez(options.out, **{**found, "images": images})
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Returns images, labels and splits. Raises UserError if files are missing, damaged or of unlike lengths."""
    names = [(f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")]
    parts = [(read_idx(folder / images), read_idx(folder / labels)) for images, labels in names]
    for (images, labels), (name, _) in zip(parts, names):
        if len(images) != len(labels):
            raise UserError(f"{folder / name}: {len(images)} images and {len(labels)} labels: download them again")
    training, tests = (len(labels) for _, labels in parts)
    validated = training // 10
    images, labels = (np.concatenate(each) for each in zip(*parts))
    splits = np.repeat(["train", "val", "test"], [training - validated, validated, tests])
    return {"images": images, "labels": labels, "splits": splits}


def scattering(images: np.ndarray) -> np.ndarray:
    """Returns the scattering coefficients float16 [n, H / 4, W / 4, 81], from 0 to 1, of images uint8 [n, H, W]."""
    transform = jax.jit(lambda x: scatter(x[..., None].astype(jnp.float32) / 255, 2, 8).astype(jnp.float16))
    chunks = np.array_split(images, max(1, len(images) // CHUNK))
    return np.concatenate([np.asarray(transform(chunk)) for chunk in chunks])


def read_idx(path: Path) -> np.ndarray:
    """Returns the array of a gzipped file of the idx format. Raises UserError if it is missing or no such file."""
    try:
        with gzip.open(path, "rb") as file:
            read = file.read()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; apt-get install dataset-fashion-mnist, or give the folder of the four .gz files of "
            "Fashion-MNIST as --folder"
        ) from None
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: {short_message(error)}; download it again") from None
    axes = read[3] if len(read) > 3 else 0
    start = 4 + 4 * axes
    if len(read) < start or read[:3] != bytes([0, 0, UNSIGNED_BYTES]) or not axes:
        raise UserError(f"{path}: not an idx file of bytes; download it again")
    shape = struct.unpack(f">{axes}I", read[4:start])
    if len(read) - start != np.prod(shape):
        raise UserError(f"{path}: {len(read) - start} values, and a shape of {list(shape)}; download it again")
    return np.frombuffer(read, np.uint8, offset=start).reshape(shape)


if __name__ == "__main__":
    main()
