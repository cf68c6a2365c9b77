"""Files that users send: streamed to disk, counted, unpacked and looked at before anything is decoded.

No name that a user gives becomes a path: files are numbered, and names are kept as text to be shown.
"""

import asyncio
import contextlib
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.read import ending_of, reader_of
from fedjax_mri.data.files.scan import HEAD
from fedjax_mri.serve.settings import Settings

MB = 10**6
FIELD = 10_000  # bytes of a field that is no file
PARTS = (".mhd", ".raw", ".zraw", ".nhdr", ".hdr", ".img")  # of which two make one scan
SHOWN = 5  # lines on what was left out
CHUNK = 2**18


class Upload:
    """The parts of a multipart body as they arrive: fields in memory, files in a folder.

    The parser calls each `on_` as it comes to a part, a header or an end.
    """

    def __init__(self, folder: Path, settings: Settings, before_files: Callable[[dict[str, str]], None]) -> None:
        self.fields: dict[str, str] = {}
        self.files: list[tuple[Path, str]] = []  # and their names
        self._folder, self._settings, self._before_files = folder, settings, before_files
        self._header, self._headers = (b"", b""), dict[str, str]()
        self._name, self._value, self._file = "", b"", None

    _file: BinaryIO | None

    def on_part_begin(self) -> None:
        self._headers, self._header, self._value = {}, (b"", b""), b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header = self._header[0] + data[start:end], self._header[1]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = self._header[0], self._header[1] + data[start:end]

    def on_header_end(self) -> None:
        name, value = self._header
        self._headers[name.decode("latin-1").lower()] = value.decode("utf-8", "replace")
        self._header = (b"", b"")

    def on_headers_finished(self) -> None:
        disposition = self._headers.get("content-disposition")
        options = parse_options_header(disposition)[1] if disposition else {b"filename": b""}  # STOW-RS names nothing
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            return
        if not self.files:
            self._before_files(self.fields)
        if len(self.files) >= self._settings.files:
            raise HTTPException(413, f"More than {self._settings.files} files: send fewer at a time.")
        path = self._folder / str(len(self.files))
        self.files.append((path, options[b"filename"].decode("utf-8", "replace")))
        self._file = path.open("wb")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
        else:
            self._value += data[start:end]
            if len(self._value) > FIELD:
                raise HTTPException(413, "A field of this form is too long.")

    def on_part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif len(self.fields) < 50:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def close(self) -> None:
        """Closes the file of a part that did not end."""
        if self._file is not None:
            self._file.close()


async def receive(
    request: Request, folder: Path, settings: Settings, before_files: Callable[[dict[str, str]], None]
) -> Upload:
    """The body of a request. `before_files` is given the fields that came before the first file, and may refuse.

    Raises HTTPException on bodies that are too large, broken or of another kind.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind not in (b"multipart/form-data", b"multipart/related") or b"boundary" not in options:
        raise HTTPException(415, "Send files as multipart/form-data.")
    most, size = settings.upload_mb * MB, 0
    too_large = HTTPException(413, f"More than {settings.upload_mb} MB: send fewer files at a time.")
    if int(request.headers.get("content-length", "0")) > most:
        raise too_large
    if shutil.disk_usage(folder).free < 3 * most:
        raise HTTPException(503, "The server's disk is full: tell its owner.", {"Retry-After": "600"})
    upload = Upload(folder, settings, before_files)
    callbacks: Any = {name: getattr(upload, name) for name in dir(upload) if name.startswith("on_")}
    try:
        parser = MultipartParser(options[b"boundary"], callbacks)
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise too_large
            await asyncio.to_thread(parser.write, chunk)
        parser.finalize()
    except (FormParserError, ClientDisconnect):
        raise HTTPException(400, "The upload was cut short or damaged: send it again.") from None
    finally:
        upload.close()
    upload.files = [(path, name) for path, name in upload.files if name or path.stat().st_size]  # an empty field
    return upload


def take(upload: Upload, folder: Path, settings: Settings) -> tuple[list[str], list[str]]:
    """Puts the files of an upload, and of zips in it, into the folder of a job; their names, and lines on what is not.

    Raises HTTPException where there is no file that can be read, or too much.
    """
    if not upload.files:
        raise HTTPException(400, "No file was sent: choose one or more.")
    names: list[str] = []
    left: list[str] = []
    for path, given in unpacked(upload.files, settings):
        name = unique(shown_name(given), names)
        ending = ending_of(name)
        try:
            if ending.lower() in PARTS:
                raise UserError("is one of two files of a scan: write it as one, .nii, .mha or .nrrd")
            with path.open("rb") as file:
                reader_of(file.read(HEAD))
        except UserError as error:
            left.append(f"{name}: {error}")
            path.unlink()
            continue
        path.rename(folder / f"{len(names):04d}{ending.lower()}")
        names.append(name)
    if not names:
        raise HTTPException(415, left[0] if left else "The zip holds no file: put files into it.")
    more = [f"{len(left) - SHOWN} more files were left out"] * (len(left) > SHOWN)
    return names, left[:SHOWN] + more


def unpacked(files: list[tuple[Path, str]], settings: Settings) -> list[tuple[Path, str]]:
    """The files, those of zips in place of the zips. Raises HTTPException on a zip that is too large or damaged."""
    found: list[tuple[Path, str]] = []
    budget = settings.unpacked_mb * MB
    for path, name in files:
        with path.open("rb") as file:
            packed = file.read(4) == b"PK\x03\x04"
        if not packed:
            found.append((path, name))
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                inside = [one for one in archive.infolist() if not (one.is_dir() or is_hidden(one.filename))]
                if len(found) + len(inside) > settings.files:
                    raise HTTPException(413, f"More than {settings.files} files: send fewer at a time.")
                for number, one in enumerate(inside):
                    target = path.with_name(f"{path.name}-{number}")
                    budget -= extract(archive, one, target, budget, settings)
                    found.append((target, one.filename))
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            NotImplementedError,
            RuntimeError,
            EOFError,
            OSError,
        ) as error:
            reason = "has a password" if "password" in str(error) else "is damaged, or packed in an unusual way"
            raise HTTPException(422, f"{shown_name(name)}: this zip {reason}: write it again.") from None
        path.unlink()
    return found


def extract(archive: zipfile.ZipFile, one: zipfile.ZipInfo, target: Path, budget: int, settings: Settings) -> int:
    """Unpacks a file of a zip, whatever its header claims, up to `budget` bytes; how many it has."""
    size = 0
    with archive.open(one) as packed, target.open("wb") as file:
        while chunk := packed.read(CHUNK):
            size += len(chunk)
            if size > budget:
                raise HTTPException(413, f"Unpacks to more than {settings.unpacked_mb} MB: send fewer files at a time.")
            file.write(chunk)
    return size


def is_hidden(name: str) -> bool:
    """Whether a file of a zip is one that its maker's system has added."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def shown_name(given: str) -> str:
    """A name to be shown, and to name results by: no way up, nothing that cannot be printed, not too long."""
    parts = [part for part in given.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    clean = ["".join(x if x.isprintable() and x not in ':*?"<>|' else "_" for x in part)[-100:] for part in parts[-3:]]
    return "/".join(clean) or "unnamed"


def unique(name: str, others: list[str]) -> str:
    """The name, numbered where another file has it."""
    path, number, taken = PurePosixPath(name), 2, set(others)
    ending = ending_of(path.name)
    while name in taken:
        name = str(path.with_name(f"{path.name.removesuffix(ending)}_{number}{ending}"))
        number += 1
    return name


@contextlib.contextmanager
def raw_folder(draft: Path) -> Any:
    """A folder in a draft for what arrives; it is deleted."""
    folder = draft / "raw"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
