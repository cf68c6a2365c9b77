"""A small part of DICOMweb: an archive sends a series by STOW-RS, and fetches what was made of it by QIDO and WADO-RS.

The address has the run and the direction: /dicomweb/RUN/TO/studies. What is found there are results alone, never what
was sent. DICOM PS3.18, 10.4 to 10.6; without rendered images, frames, bulk data and worklists.
"""

import asyncio
import fnmatch
import functools
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.tag import Tag
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fedjax_mri.serve import access, shared, store, uploads
from fedjax_mri.serve.runs import Ability
from fedjax_mri.serve.shared import server_of
from fedjax_mri.serve.uploads import Sent

JSON = "application/dicom+json"
ATTRIBUTES = {  # what the answer to a query of each level holds
    "studies": "StudyInstanceUID StudyDate StudyTime AccessionNumber StudyID PatientName PatientID StudyDescription",
    "series": "Modality SeriesDescription SeriesInstanceUID SeriesNumber StudyInstanceUID PatientID",
    "instances": "SOPClassUID SOPInstanceUID InstanceNumber Rows Columns Modality SeriesInstanceUID StudyInstanceUID "
    "PatientID",
}
UIDS = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
IDENTIFIERS = [*UIDS.values(), "SOPClassUID"]
PAGING = ("limit", "offset", "includefield", "fuzzymatching")
NOT_UNDERSTOOD = 0xC000  # why a file of a STOW was refused
LOG_IN = HTTPException(401, "Give name and password, or the token.", {"WWW-Authenticate": 'Basic realm="fedjax-mri"'})


class Archive(NamedTuple):
    """Says whose results, of which run and direction, a request is about."""

    user: str
    run: str
    to: str


def archive(request: Request) -> Archive:
    """Returns what a request is about.

    Raises HTTPException where the client has not proved to be a user, or the run does not make that modality.
    """
    known, address = server_of(request).access, request.client.host if request.client else ""
    user = access.of_header(known, request.headers.get("authorization", ""), address)
    if user is None:
        raise LOG_IN
    run, to = request.path_params["run"], request.path_params["to"]
    if to not in shared.abilities(request).get(run, Ability()).makes:
        raise HTTPException(404, f"{run[:80]}/{to[:8]}: no run that makes this modality.")
    return Archive(user, run, to)


async def send(request: Request) -> Response:
    """STOW-RS: takes instances as one job, and says which were taken."""
    asked, server = await asyncio.to_thread(archive, request), server_of(request)
    study, answer = request.path_params.get("StudyInstanceUID"), pydicom.Dataset()
    with shared.draft(server, asked.user) as draft:
        form = await uploads.receive(request, server.settings)
        files = uploads.sent(form)
        taken = await asyncio.to_thread(lambda: [pair for file in files for pair in instances(file, study)])
        if taken:
            sent = [file for file, _ in taken]
            names, left_out = await asyncio.to_thread(uploads.take, sent, draft / "in", server.settings)
            store.accept(draft, store.Request("convert", asked.run, names, asked.to, left_out=left_out))
            answer.ReferencedSOPSequence = [reference for _, reference in taken]
        await form.close()
    if failed := len(files) - len(taken):
        failure = pydicom.Dataset()
        failure.FailureReason = NOT_UNDERSTOOD
        answer.FailedSOPSequence = [failure] * failed
    return JSONResponse(answer.to_json_dict(), 409 if not taken else 202 if failed else 200, media_type=JSON)


def instances(file: Sent, study: str | None) -> Iterator[tuple[Sent, pydicom.Dataset]]:
    """Yields a file, named by its identifier, and what STOW-RS says of it, if it is a DICOM instance of that study."""
    try:
        header = pydicom.dcmread(file.content, stop_before_pixels=True, force=True, specific_tags=[*IDENTIFIERS])
        uids = {name: str(header[name].value) for name in IDENTIFIERS}
    except Exception:  # whatever is wrong with it, it is no instance
        return
    file.content.seek(0)
    valid = all(len(uid) <= 64 and uid.replace(".", "").isdecimal() for uid in uids.values())
    if valid and study in (None, uids["StudyInstanceUID"]):
        reference = pydicom.Dataset()
        reference.ReferencedSOPClassUID = uids["SOPClassUID"]
        reference.ReferencedSOPInstanceUID = uids["SOPInstanceUID"]
        yield Sent(f"{reference.ReferencedSOPInstanceUID}.dcm", file.content), reference


@functools.lru_cache(20_000)
def header(path: Path) -> pydicom.Dataset | None:
    """Returns all of a result but its pixels; None where it is no DICOM object. Results do not change."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except Exception:  # a result of another kind, or deleted meanwhile
        return None


def results(request: Request) -> list[tuple[Path, pydicom.Dataset]]:
    """Returns the results that a request's path names, with their headers."""
    asked = archive(request)
    wanted = [(name, request.path_params[name]) for name in UIDS.values() if name in request.path_params]
    found: list[tuple[Path, pydicom.Dataset]] = []
    for job in store.jobs_of(server_of(request).home, asked.user):
        if (job.request.kind, job.request.run, job.request.to) != ("convert", asked.run, asked.to):
            continue
        for number, item in store.progress(job).items.items():
            paths = [job.folder / "out" / f"{number}-{place}" for place in range(len(item.get("results", ())))]
            headers = [(path, one) for path in paths if (one := header(path)) is not None]
            found += [(path, one) for path, one in headers if all(one.get(name) == uid for name, uid in wanted)]
    return found


def query(request: Request, level: str) -> Response:
    """QIDO-RS: tells the studies, series or instances among the results, by equal values or with * and ?."""
    found = results(request)
    try:
        asked = {Tag(name): value for name, value in request.query_params.items() if name not in PAGING}
    except ValueError:
        raise HTTPException(400, "A name of the query is no attribute of DICOM.") from None
    rows = {
        str(one.get(UIDS[level])): one
        for _, one in reversed(found)
        if all(fnmatch.fnmatchcase(str(one[tag].value) if tag in one else "", value) for tag, value in asked.items())
    }
    start, count = number(request, "offset", 0), number(request, "limit", 1000)
    shown = [Tag(name) for name in ATTRIBUTES[level].split()]
    answers = [
        {tag: value for tag, value in one.to_json_dict().items() if Tag(tag) in shown}
        for one in [*rows.values()][start : start + count]
    ]
    return JSONResponse(answers, media_type=JSON)


def number(request: Request, name: str, usual: int) -> int:
    """Returns a number of the query. Raises HTTPException where it is none."""
    text = request.query_params.get(name, str(usual))
    if not text.isdecimal() or len(text) > 9:
        raise HTTPException(400, f"{name} {text[:20]}: give a whole number.")
    return int(text)


def retrieve(request: Request) -> Response:
    """WADO-RS: sends the results of a study, a series, or one instance, as they were written."""
    paths, boundary = [path for path, _ in existing(request)], uuid.uuid4().hex

    def parts() -> Iterator[bytes]:
        for path in paths:
            yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return StreamingResponse(parts(), media_type=f'multipart/related; type="application/dicom"; boundary={boundary}')


def metadata(request: Request) -> Response:
    """WADO-RS: tells all attributes but pixels."""
    return JSONResponse([one.to_json_dict() for _, one in existing(request)], media_type=JSON)


def existing(request: Request) -> list[tuple[Path, pydicom.Dataset]]:
    """Returns the results that a request's path names. Raises HTTPException where there is none."""
    found = results(request)
    if not found:
        raise HTTPException(404, "Nothing of that is there, or it is not ready.")
    return found


BASE = "/dicomweb/{run:path}/{to}"
STUDY = f"{BASE}/studies/{{StudyInstanceUID}}"
SERIES = f"{STUDY}/series/{{SeriesInstanceUID}}"
INSTANCE = f"{SERIES}/instances/{{SOPInstanceUID}}"
ROUTES = [  # the name of a run may hold a "/": the longest path first
    Route(f"{INSTANCE}/metadata", metadata),
    Route(INSTANCE, retrieve),
    Route(f"{SERIES}/instances", partial(query, level="instances")),
    Route(f"{SERIES}/metadata", metadata),
    Route(SERIES, retrieve),
    *(Route(f"{STUDY}/{level}", partial(query, level=level)) for level in ("series", "instances")),
    Route(f"{STUDY}/metadata", metadata),
    Route(STUDY, retrieve),
    Route(STUDY, send, methods=["POST"]),
    *(Route(f"{BASE}/{level}", partial(query, level=level)) for level in ATTRIBUTES),
    Route(f"{BASE}/studies", send, methods=["POST"]),
]
