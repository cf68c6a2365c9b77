"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr), the formats of ITK; read and written as `nifti.py` does.

They are read here, and not by ITK: its reader of NRRD can be made to crash by a damaged header. Of both formats what
ITK, 3D Slicer and Plastimatch write is known: text, then voxels as they are or packed, after it or in a file beside it.

https://itk.org/Wiki/ITK/MetaIO/Documentation, https://teem.sourceforge.net/nrrd/format.html
"""

import re
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import packing, volume
from fedjax_mri.data.files.orientation import spacing, turns
from fedjax_mri.data.files.scan import Conversion, Limits, Origin, Reader, Scan, check_slice

RAS = np.diag([-1.0, -1.0, 1.0])  # from axes to the left, back and head to NIfTI's
LONGEST = 2**16  # bytes of a header
META_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
NRRD_TYPES = {
    **{"signed char": "i1", "int8": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "short": "i2"},
    **{"int16": "i2", "ushort": "u2", "unsigned short": "u2", "uint16": "u2", "int": "i4", "int32": "i4"},
    **{"uint": "u4", "unsigned int": "u4", "uint32": "u4", "longlong": "i8", "long long": "i8", "int64": "i8"},
    **{"ulonglong": "u8", "unsigned long long": "u8", "uint64": "u8", "float": "f4", "double": "f8"},
}
SPACES = {  # NRRD's names -> the signs that bring axes to NIfTI's
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1.0, 1.0, 1.0)),
}


class Header(NamedTuple):
    """What the text header of a MetaImage or NRRD file says of its voxels."""

    shape: tuple[int, ...]  # [x, y, z]
    dtype: np.dtype
    affine: np.ndarray  # NIfTI's
    packed: bool
    data: str  # name of the file beside; "" where the voxels follow
    end: int  # bytes of the header
    # (shape, type, steps and place in LPS [3, 4], description, the voxels' bytes, whether to pack) -> bytes of a file
    write: Callable[[tuple[int, ...], np.dtype, np.ndarray, str, bytes, bool], bytes]


def read(path: Path, modality: str, limits: Limits) -> Scan:
    """Returns the scan. Raises UserError on a false header, on more than one volume and on colours."""
    header = header_of(path)
    claimed = volume.claimed_bytes(header.shape, header.dtype, 0, limits)
    file, start = (path.parent / header.data, 0) if header.data else (path, header.end)
    if not file.is_file():
        raise UserError(f"a header without its voxels: put {header.data} beside it")
    whole, notes = packing.content(file, lambda _: claimed, start, header.packed)
    turn, turn_back = turns(header.affine)
    array = np.ndarray(volume.three(header.shape), header.dtype, whole, order="F")
    height, width = turn(array).shape[1:]
    check_slice(height, width, limits)
    step, encode = spacing(header.affine), partial(file_bytes, header, turn_back)
    said = (*notes, *volume.doubts(header.affine, step))
    return Scan(volume.axial(array, turn), volume.units_of(modality), encode, step, Origin(modality), said)


def header_of(path: Path) -> Header:
    """Returns the header of a file. Raises UserError where it is not that of one volume that lies in a patient."""
    with path.open("rb") as file:
        start = file.read(LONGEST)
    try:
        header = nrrd(start) if start.startswith(b"NRRD") else meta(start)
    except KeyError as error:
        raise UserError(f"its header has no {error.args[0]!r} that is known: write it again") from None
    except (ValueError, TypeError):
        raise UserError("its header has a field that is no number: write it again") from None
    if not re.fullmatch(r"([^/\\%\s][^/\\%]*\.z?raw(\.gz)?)?", header.data):
        raise UserError(f"its voxels are in {header.data[:40]!r}: give one file, or .raw beside the header")
    return header


def meta(start: bytes) -> Header:
    """Returns the header of a MetaImage; LOCAL ends it."""
    found = re.search(rb"^ElementDataFile\s*=\s*([^\r\n]*?)\s*\r?\n", start, re.M) or re.search(
        rb"^ElementDataFile\s*=\s*([^\r\n]*?)\s*$", start, re.M
    )
    if found is None:
        raise KeyError("ElementDataFile")
    fields = pairs(start[: found.start()], "=")
    place = first(fields, "TransformMatrix", "Rotation", "Orientation")
    if place is None:
        raise UserError("does not say how it lies in the patient: write its TransformMatrix")
    if is_true(fields.get("BinaryData", "True")) is False or fields.get("ElementNumberOfChannels", "1") != "1":
        raise UserError("text, or several values a voxel: give one binary volume")
    if first(fields, "HeaderSize") not in (None, "0"):
        raise UserError("its voxels follow something else: write it again, by ITK")
    order = ">" if is_true(first(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") or "False") else "<"
    dtype = np.dtype(order + META_TYPES[fields["ElementType"]])
    steps = numbers(first(fields, "ElementSpacing", "ElementSize") or "1 1 1", 3)
    directions = numbers(place, 9).reshape(3, 3).T * steps
    affine = affine_of(directions, numbers(first(fields, "Offset", "Position", "Origin") or "0 0 0", 3), RAS)
    data = found[1].decode("latin-1")
    packed = is_true(fields.get("CompressedData", "False"))
    name = "" if data.upper() == "LOCAL" else data
    return Header(shape_of(fields["DimSize"]), dtype, affine, packed, name, found.end(), write_meta)


def nrrd(start: bytes) -> Header:
    """Returns the header of a NRRD file, which an empty line ends, or the end of the file."""
    found = re.search(rb"\r?\n\r?\n", start)
    end = found.end() if found else len(start)
    fields = {name.lower(): value for name, value in pairs(start[:end], ":").items()}
    if "space" not in fields or "space directions" not in fields:
        raise UserError("does not say how it lies in the patient: write its space and space directions")
    if fields["encoding"].lower() not in ("raw", "gz", "gzip"):
        raise UserError(f"its encoding is {fields['encoding'][:20]}: give raw or gzip")
    if {fields.get(name, "0") for name in ("line skip", "byte skip")} != {"0"}:
        raise UserError("its voxels follow something else: write it again, by ITK")
    order = {"big": ">", "little": "<"}[fields.get("endian", "little").lower()]
    dtype = np.dtype(order + NRRD_TYPES[fields["type"].lower()])
    vectors = re.findall(r"\(([^)]*)\)", fields["space directions"])
    directions = np.stack([numbers(vector, 3) for vector in vectors]).T
    origin = numbers(fields.get("space origin", "(0,0,0)").strip("()"), 3)
    affine = affine_of(directions, origin, np.diag(SPACES[fields["space"].lower()]))
    packed, name = fields["encoding"].lower() != "raw", first(fields, "data file", "datafile") or ""
    return Header(shape_of(fields["sizes"]), dtype, affine, packed, name, end, write_nrrd)


def pairs(text: bytes, sign: str) -> dict[str, str]:
    """Returns the names and values in lines such as NDims = 3."""
    lines = [line.partition(sign) for line in text.decode("latin-1").splitlines() if not line.startswith("#")]
    return {name.strip(): value.strip() for name, found, value in lines if found}


def first(fields: Mapping[str, str], *names: str) -> str | None:
    """Returns the value of the first field that is there."""
    return next((fields[name] for name in names if name in fields), None)


def is_true(text: str) -> bool:
    """Returns whether a field of MetaImage says yes."""
    return text[:1] in ("T", "t", "1")


def numbers(text: str, count: int) -> np.ndarray:
    """Returns the numbers of a text, between blanks or commas. Raises ValueError where they are not `count`."""
    values = np.array([float(word) for word in re.split(r"[\s,]+", text.strip())])
    if len(values) != count:
        raise ValueError
    return values


def shape_of(text: str) -> tuple[int, ...]:
    """Returns the shape of a volume. Raises UserError on other than 3 to 5 dimensions."""
    shape = tuple(int(word) for word in text.split())
    if not 3 <= len(shape) <= 5:
        raise UserError(f"{len(shape)} dimensions: give one volume of 3")
    return shape


def affine_of(directions: np.ndarray, origin: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Returns NIfTI's affine [4, 4] of steps along the axes, which are columns, and the first voxel's place."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = signs @ directions, signs @ origin
    return affine


def file_bytes(
    header: Header, turn_back: Any, conversion: Conversion, values: np.ndarray, deviation: bool
) -> list[bytes]:
    """Returns the bytes of one file on the source's grid: int16 HU, or float32."""
    dtype = volume.stored_type(conversion, deviation).newbyteorder("<")
    voxels = b"".join(volume.planes(values, turn_back, dtype))
    text = volume.description(conversion, deviation).encode("ascii", "replace").decode().replace("\n", " ")
    return [header.write(header.shape, dtype, RAS @ header.affine[:3], text, voxels, header.packed)]


def write_meta(
    shape: tuple[int, ...], dtype: np.dtype, place: np.ndarray, text: str, voxels: bytes, packed: bool
) -> bytes:
    """Returns the bytes of a .mha file.

    `place` [3, 4] has steps along the axes and the first voxel's place, in LPS.
    """
    data = zlib.compress(voxels, 1) if packed else voxels
    steps = np.linalg.norm(place[:, :3], axis=0)
    kinds = {np.dtype("i2"): "MET_SHORT", np.dtype("f4"): "MET_FLOAT"}
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "Comment": text,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(packed),
        **({"CompressedDataSize": str(len(data))} if packed else {}),
        "TransformMatrix": written((place[:, :3] / steps).T.ravel()),
        "Offset": written(place[:, 3]),
        "ElementSpacing": written(steps),
        "DimSize": " ".join(map(str, shape[:3])),
        "ElementType": kinds[dtype],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{name} = {value}\n" for name, value in lines.items()).encode() + data


def write_nrrd(
    shape: tuple[int, ...], dtype: np.dtype, place: np.ndarray, text: str, voxels: bytes, packed: bool
) -> bytes:
    """Returns the bytes of a .nrrd file.

    `place` [3, 4] has steps along the axes and the first voxel's place, in LPS.
    """
    lines = {
        "type": {np.dtype("i2"): "short", np.dtype("f4"): "float"}[dtype],
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, shape[:3])),
        "space directions": " ".join(f"({written(column, ',')})" for column in place[:, :3].T),
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "gzip" if packed else "raw",
        "space origin": f"({written(place[:, 3], ',')})",
    }
    head = "NRRD0004\n" + f"# {text}\n" + "".join(f"{name}: {value}\n" for name, value in lines.items()) + "\n"
    return head.encode() + (packing.written(b"", iter([voxels]), True) if packed else voxels)


def written(values: np.ndarray, sign: str = " ") -> str:
    """Returns numbers as text with all their digits."""
    return sign.join(repr(float(value)) for value in values)


def recognizes(head: bytes) -> bool:
    """Returns whether a file that begins with these bytes is MetaImage or NRRD."""
    return head.startswith((b"NRRD000", b"ObjectType", b"NDims")) or b"\nNDims" in head[:200]


READER = Reader(("MetaImage", "NRRD"), (".mha", ".mhd", ".nrrd", ".nhdr"), recognizes, read)
