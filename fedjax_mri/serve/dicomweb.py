"""A small part of DICOMweb: an archive sends a series by STOW-RS, and fetches what was made of it by QIDO and WADO-RS.

The address has the run and the direction: /dicomweb/RUN/TO/studies. What is found there are results alone, never what
was sent. DICOM PS3.18, 10.4 to 10.6; without rendered images, frames, bulk data and worklists.
"""

import asyncio
import fnmatch
import functools
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fedjax_mri.serve import access, server, store, uploads

JSON = "application/dicom+json"
LEVELS = {  # what a query of each level tells
    "studies": "StudyInstanceUID StudyDate StudyTime AccessionNumber StudyID PatientName PatientID StudyDescription",
    "series": "Modality SeriesDescription SeriesInstanceUID SeriesNumber StudyInstanceUID PatientID",
    "instances": "SOPClassUID SOPInstanceUID InstanceNumber Rows Columns Modality SeriesInstanceUID StudyInstanceUID "
    "PatientID",
}
UIDS = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
IDENTIFIERS = (*UIDS.values(), "SOPClassUID")
NOT_UNDERSTOOD = 0xC000  # why a file of a STOW was refused
LOG_IN = HTTPException(401, "Give name and password, or the token.", {"WWW-Authenticate": 'Basic realm="fedjax-mri"'})


async def user_of(request: Request) -> str:
    """The user of a client, as the owner of its jobs. Raises HTTPException where it has not proved to be one."""
    known, address = server.server(request).access, request.client.host if request.client else ""
    seconds = access.wait(known, address)
    if seconds > 0:
        raise HTTPException(429, "Too many failed log-ins: wait a minute.", {"Retry-After": str(int(seconds) + 1)})
    user = await asyncio.to_thread(access.of_header, known, request.headers.get("authorization", ""), address)
    if user is None:
        raise LOG_IN
    return user


async def archive(request: Request) -> tuple[str, str, str]:
    """User, run and direction of a request. Raises HTTPException where the run does not make that modality."""
    user, run, to = await user_of(request), request.path_params["run"], request.path_params["to"]
    found = await server.find_runs(request)
    if run not in found or to not in found[run][1].makes:
        raise HTTPException(404, f"{run[:80]}/{to[:8]}: no run that makes this modality.")
    return user, run, to


async def send(request: Request) -> Response:
    """STOW-RS: takes instances as one job, and says which were taken."""
    user, run, to = await archive(request)
    found = server.server(request)
    with server.admission(found):
        draft = store.draft(found.home, user)
        try:
            with uploads.raw_folder(draft) as raw:
                upload = await uploads.receive(request, raw, found.settings, lambda fields: None)
                taken, failed = await asyncio.to_thread(sort, upload, request.path_params.get("study"))
                if not taken:
                    shutil.rmtree(draft, ignore_errors=True)
                    return JSONResponse(answer([], failed), 409, media_type=JSON)
                upload.files = [(path, f"{uid}.dcm") for path, _, uid in taken]
                names, left = await asyncio.to_thread(uploads.take, upload, draft / "in", found.settings)
            store.accept(found.home, draft, store.Request("convert", run, names, to, left=left))
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    return JSONResponse(answer(taken, failed), 202 if failed else 200, media_type=JSON)


Taken = list[tuple[Path, str, str]]  # file, class and instance


def sort(upload: uploads.Upload, study: str | None) -> tuple[Taken, int]:
    """The DICOM instances of an upload, of a study where one is named, and how many files are none."""
    taken: Taken = []
    for path, _ in upload.files:
        try:
            found = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=[*IDENTIFIERS])
            uids = [str(found[name].value) for name in IDENTIFIERS]
        except Exception:  # whatever is wrong with it, it is no instance
            continue
        if study in (None, uids[0]) and all(len(one) <= 64 and one.replace(".", "").isdecimal() for one in uids):
            taken.append((path, uids[3], uids[2]))
    return taken, len(upload.files) - len(taken)


def answer(taken: Taken, failed: int) -> dict[str, Any]:
    """What STOW-RS says of each instance, in DICOM's JSON."""

    def item(**values: Any) -> dict[str, Any]:
        return {
            f"{tag_for_keyword(name):08X}": {"vr": "US" if name == "FailureReason" else "UI", "Value": [value]}
            for name, value in values.items()
        }

    good = [item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid) for _, kind, uid in taken]
    bad = [item(FailureReason=NOT_UNDERSTOOD) for _ in range(failed)]
    sequences = {"ReferencedSOPSequence": good, "FailedSOPSequence": bad}
    return {f"{tag_for_keyword(name):08X}": {"vr": "SQ", "Value": one} for name, one in sequences.items() if one}


@functools.lru_cache(20_000)
def header(path: Path) -> pydicom.Dataset | None:
    """All of a result but its pixels; None where it is no DICOM object. Results do not change."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except Exception:  # a result of another kind, or deleted meanwhile
        return None


def made(request: Request, user: str, run: str, to: str) -> list[tuple[Path, pydicom.Dataset]]:
    """The results of a user's jobs of that run and direction that the path does not exclude."""
    found = server.server(request)
    wanted = {UIDS[name]: request.path_params[key] for name, key in KEYS.items() if key in request.path_params}
    instances: list[tuple[Path, pydicom.Dataset]] = []
    for job in store.jobs_of(found.home, user):
        if (job.request.kind, job.request.run, job.request.to) != ("convert", run, to):
            continue
        for number, item in store.progress(found.home, job).items.items():
            paths = [job.folder / "out" / f"{number}-{place}" for place in range(len(item.get("results", ())))]
            headers = [(path, one) for path in paths if (one := header(path)) is not None]
            instances += [pair for pair in headers if all(pair[1].get(key) == uid for key, uid in wanted.items())]
    return instances


KEYS = {"studies": "study", "series": "one_series", "instances": "instance"}


async def query(request: Request, level: str) -> Response:
    """QIDO-RS: the studies, series or instances among the results, by equal values or with * and ?."""
    user, run, to = await archive(request)
    instances = await asyncio.to_thread(made, request, user, run, to)
    asked = {name: value for name, value in request.query_params.items() if name not in PAGING}
    unknown = [name for name in asked if keyword(name) is None]
    if unknown:
        raise HTTPException(400, f"{unknown[0][:64]}: no attribute of DICOM.")
    rows = {
        str(one.get(UIDS[level])): one
        for _, one in reversed(instances)
        if all(fnmatch.fnmatchcase(str(one.get(keyword(name) or "", "")), value) for name, value in asked.items())
    }
    start, count = (number(request, name, usual) for name, usual in (("offset", 0), ("limit", 1000)))
    told = [told_of(one, level) for one in list(rows.values())[start : start + count]]
    return JSONResponse(told, media_type=JSON)


PAGING = ("limit", "offset", "includefield", "fuzzymatching")


def number(request: Request, name: str, usual: int) -> int:
    """A number of the query. Raises HTTPException where it is none."""
    text = request.query_params.get(name, str(usual))
    if not text.isdecimal() or len(text) > 9:
        raise HTTPException(400, f"{name} {text[:20]}: give a whole number.")
    return int(text)


def keyword(name: str) -> str | None:
    """The keyword of an attribute that is named by it or by its tag, such as 0020000D."""
    if tag_for_keyword(name) is not None:
        return name
    try:
        return keyword_for_tag(int(name, 16)) or None
    except ValueError:
        return None


def told_of(dataset: pydicom.Dataset, level: str) -> dict[str, Any]:
    """The attributes that a query of a level tells, in DICOM's JSON."""
    chosen = pydicom.Dataset()
    for name in LEVELS[level].split():
        if name in dataset:
            chosen[name] = dataset[name]
    return chosen.to_json_dict()


async def retrieve(request: Request) -> Response:
    """WADO-RS: the results of a study, a series, or one instance, as they were written."""
    user, run, to = await archive(request)
    paths = [path for path, _ in await asyncio.to_thread(made, request, user, run, to)]
    if not paths:
        raise HTTPException(404, "Nothing of that is there, or it is not ready.")
    boundary = uuid.uuid4().hex

    def parts() -> Iterator[bytes]:
        for path in paths:
            yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return StreamingResponse(parts(), media_type=f'multipart/related; type="application/dicom"; boundary={boundary}')


async def metadata(request: Request) -> Response:
    """WADO-RS: all attributes but pixels."""
    user, run, to = await archive(request)
    found = await asyncio.to_thread(made, request, user, run, to)
    if not found:
        raise HTTPException(404, "Nothing of that is there, or it is not ready.")
    return JSONResponse([dataset.to_json_dict() for _, dataset in found], media_type=JSON)


def routes() -> Iterator[Route]:
    """All paths below a run and a direction."""
    base = "/dicomweb/{run:path}/{to}"
    places = ("/studies", "/studies/{study}", "/studies/{study}/series/{one_series}")
    yield Route(f"{base}/studies", send, methods=["POST"])
    yield Route(f"{base}/studies/{{study}}", send, methods=["POST"])
    searches: list[tuple[str, str]] = [
        *((f"/{level}", level) for level in LEVELS),
        *((f"{places[1]}/{level}", level) for level in ("series", "instances")),
        (f"{places[2]}/instances", "instances"),
    ]
    for path, level in searches:
        yield Route(base + path, functools.partial(query, level=level))
    for path in (places[1], places[2], f"{places[2]}/instances/{{instance}}"):
        yield Route(base + path, retrieve)
        yield Route(f"{base}{path}/metadata", metadata)


ROUTES = sorted(routes(), key=lambda route: -route.path.count("/"))  # the name of a run may hold a "/": longest first
