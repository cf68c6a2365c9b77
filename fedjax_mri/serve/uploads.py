"""Files that users send: counted, unpacked and looked at before anything is decoded.

No name that a user gives becomes a path: files are numbered, and names are kept as text to be shown.
"""

import contextlib
import errno
import itertools
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files import discover
from fedjax_mri.data.files.read import ending_of, reader_of
from fedjax_mri.data.files.scan import HEAD
from fedjax_mri.serve.settings import Settings

MB = 10**6
FIELD = 10_000  # bytes of a field that is no file
CHUNK = 2**18
PARTS = (".mhd", ".raw", ".zraw", ".nhdr", ".hdr", ".img")  # of which two make one scan
SHOWN = 5  # lines on what was left out
DAMAGED_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError, OSError, ValueError),
)


class Sent(NamedTuple):
    """Holds a file as it was sent."""

    name: str
    content: IO[bytes]


class Parser(MultiPartParser):
    """Parses multipart bodies as Starlette does, and parts without a name as well, as STOW-RS has them."""

    def on_headers_finished(self) -> None:
        """Opens a file for the part that begins."""
        part = self._current_part
        part.content_disposition = part.content_disposition or b'form-data; name="files"; filename=""'
        super().on_headers_finished()


def too_many(files: int) -> HTTPException:
    """Returns the refusal of an upload with more files."""
    return HTTPException(413, f"More than {files} files: send fewer at a time.")


async def receive(request: Request, settings: Settings) -> FormData:
    """Returns the form in a request's body; its files lie in temporary files that have no name.

    Raises HTTPException on bodies that are too large, broken or of another kind.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind not in (b"multipart/form-data", b"multipart/related") or b"boundary" not in options:
        raise HTTPException(415, "Send files as multipart/form-data.")
    most = settings.upload_mb * MB
    too_large = HTTPException(413, f"More than {settings.upload_mb} MB: send fewer files at a time.")
    if int(request.headers.get("content-length", "0")) > most:
        raise too_large
    if shutil.disk_usage(tempfile.gettempdir()).free < 3 * most:
        raise HTTPException(503, "The server's disk is full: tell its owner.", {"Retry-After": "600"})

    async def limited() -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise too_large
            yield chunk

    parser = Parser(request.headers, limited(), max_files=settings.files, max_fields=50, max_part_size=FIELD)
    try:
        return await parser.parse()
    except (MultiPartException, ClientDisconnect):
        if parser._current_files > settings.files:
            raise too_many(settings.files) from None
        raise HTTPException(400, "The upload was cut short or damaged: send it again.") from None


def sent(form: FormData) -> list[Sent]:
    """Returns the files of a form. A browser sends a field without a file as one without name and content."""
    uploads = [one for _, one in form.multi_items() if isinstance(one, UploadFile) and (one.filename or one.size)]
    return [Sent(one.filename or "", one.file) for one in uploads]


def take(files: Sequence[Sent], folder: Path, settings: Settings) -> tuple[list[str], list[str]]:
    """Copies files, and those in zips, into the folder of a job; returns their names, and lines on what is left out.

    Raises HTTPException where there is no file that can be read, or too much.
    """
    if not files:
        raise HTTPException(400, "No file was sent: choose one or more.")
    names: list[str] = []
    left_out: list[str] = []
    budget = settings.unpacked_mb * MB
    for upload in files:
        with opened(upload) as inside:
            for file in inside:
                if len(names) + len(left_out) >= settings.files:
                    raise too_many(settings.files)
                name = unique(shown_name(file.name), names)
                try:
                    head = recognized(name, file.content)
                except UserError as error:
                    left_out.append(f"{name}: {error}")
                    continue
                budget -= copy(head, file.content, folder / f"{len(names):04d}{ending_of(name).lower()}", budget)
                names.append(name)
                if budget < 0:
                    text = f"Unpacks to more than {settings.unpacked_mb} MB: send fewer files at a time."
                    raise HTTPException(413, text)
    if not names:
        raise HTTPException(415, left_out[0] if left_out else "The zip holds no file: put files into it.")
    more = [f"{len(left_out) - SHOWN} more files were left out"] * (len(left_out) > SHOWN)
    return names, left_out[:SHOWN] + more


@contextlib.contextmanager
def opened(file: Sent) -> Iterator[Iterator[Sent]]:
    """Gives the files in a zip, or the file itself. Raises HTTPException where reading shows a damaged zip."""
    packed = file.content.read(4) == b"PK\x03\x04"
    file.content.seek(0)
    if not packed:
        yield iter([file])
        return
    try:
        with zipfile.ZipFile(file.content) as archive:
            inside = [one for one in archive.infolist() if not (one.is_dir() or is_hidden(one.filename))]
            yield (Sent(one.filename, archive.open(one)) for one in inside)
    except DAMAGED_ZIP as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the server's own disk
        reason = "has a password" if "password" in str(error) else "is damaged, or packed in an unusual way"
        raise HTTPException(422, f"{shown_name(file.name)}: this zip {reason}: write it again.") from None


def recognized(name: str, content: IO[bytes]) -> bytes:
    """Returns the first bytes of a file. Raises UserError where they are of no kind that can be read."""
    if ending_of(name).lower() in PARTS:
        raise UserError("is one of two files of a scan: write it as one, .nii, .mha or .nrrd")
    head = content.read(HEAD)
    reader_of(head)
    return head


def copy(head: bytes, content: IO[bytes], target: Path, budget: int) -> int:
    """Writes a file, whatever the header of its zip claims, until it has more bytes than `budget`; returns how many."""
    size, chunk = 0, head
    with target.open("wb") as file:
        while chunk and size <= budget:
            size += file.write(chunk)
            chunk = content.read(CHUNK)
    return size


def is_hidden(name: str) -> bool:
    """Returns whether a file of a zip is one that its maker's system has added."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def shown_name(given: str) -> str:
    """Returns a name to show, and to name results by: no way up, nothing that cannot be printed, not too long."""
    parts = [part for part in given.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    clean = ["".join(x if x.isprintable() and x not in ':*?"<>|' else "_" for x in part)[-100:] for part in parts[-3:]]
    return "/".join(clean) or "unnamed"


def unique(name: str, others: Sequence[str]) -> str:
    """Returns the name, numbered where another file has it."""
    taken = set(others)
    numbered = (str(discover.extended(Path(name), str(number))) for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)
