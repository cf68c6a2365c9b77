"""The pages to convert and to explain: a form, the jobs of a user, their results."""

import asyncio
import re
import shutil
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from fedjax_mri.convert.region import METHODS
from fedjax_mri.data.files.read import endings
from fedjax_mri.serve import server, store, uploads, views
from fedjax_mri.serve.explaining import PAGE
from fedjax_mri.xai import methods

TITLES = {"convert": "Convert", "explain": "Explain"}
NUMBER = re.compile(r"[+-]?\d{1,6}(\.\d{1,6})?")
NEWEST = 100  # jobs that are listed
CACHED = {"Cache-Control": "private, max-age=3600"}
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # of pages that `report` has made


async def start(request: Request, kind: str) -> Response:
    """The form of a kind of job, and the user's jobs."""
    found = await server.find_runs(request)
    able = {name: ability for name, (_, ability) in found.items() if (ability.makes or ability.classes)}
    home, user = server.server(request).home, server.session(request).user
    jobs = await asyncio.to_thread(
        lambda: [(job, store.progress(home, job)) for job in store.jobs_of(home, user)[:NEWEST]]
    )
    return server.page(
        request,
        "start.html",
        kind=kind,
        title=TITLES[kind],
        runs={name: one for name, one in able.items() if (one.makes if kind == "convert" else one.classes)},
        jobs=jobs,
        settings=server.server(request).settings,
        endings=",".join([*endings(), ".zip"]),
        chosen=request.query_params.get("run", ""),
    )


async def send(request: Request, kind: str) -> Response:
    """Takes files as a new job."""
    found = server.server(request)
    able = await server.find_runs(request)
    wanted: dict[str, Any] = {}

    def check(fields: dict[str, str]) -> None:
        """Refuses bad fields before any file arrives: the form has them first."""
        server.check_csrf(request, fields.get("csrf"))
        run, _, to = fields.get("run", "").rpartition(" to ") if kind == "convert" else (fields.get("run", ""), "", "")
        ability = able[run][1] if run in able else None
        if ability is None or not (to in ability.makes if kind == "convert" else ability.classes):
            raise HTTPException(422, "Choose one of the runs that the page lists.")
        offset = fields.get("ct_offset", "").strip()
        if offset and not NUMBER.fullmatch(offset):
            raise HTTPException(422, f"CT offset {offset[:20]}: give a number of HU, such as -1024.")
        wanted.update(run=run, to=to, ct_offset=float(offset) if offset else None)
        wanted["samples"] = found.settings.samples if fields.get("uncertainty") else 0

    with server.admission(found):
        draft = store.draft(found.home, server.session(request).user)
        try:
            with uploads.raw_folder(draft) as raw:
                upload = await uploads.receive(request, raw, found.settings, check)
                check(upload.fields)
                names, left = await asyncio.to_thread(uploads.take, upload, draft / "in", found.settings)
            job = store.accept(found.home, draft, store.Request(kind, names=names, left=left, **wanted))
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    return server.see(f"/jobs/{job.id}")


async def show(request: Request) -> Response:
    """How far a job is, and what it has made; its only item at once."""
    job = server.job_of(request)
    progress = await asyncio.to_thread(store.progress, server.server(request).home, job)
    if progress.state == "done" and progress.total == 1 and progress.items[0]["state"] == "done":
        return server.see(f"/jobs/{job.id}/0")
    return server.page(request, "job.html", job=job, progress=progress)


async def show_item(request: Request) -> Response:
    """One result: source and result side by side, or a prediction with its explanation."""
    job = server.job_of(request)
    item, number, request_ = server.item_of(request, job), request.path_params["number"], job.request
    progress = store.progress(server.server(request).home, job)
    shared = {"job": job, "item": item, "number": number, "several": progress.total > 1, "lines": progress.lines}
    if request_.kind == "explain":
        return server.page(request, "explained.html", **shared)
    if request_.kind == "region":
        return server.page(request, "region.html", **shared)
    shown = []
    for plane in views.PLANES if item["shape"][0] > 1 else views.PLANES[:1]:
        count = views.depth(item["shape"], plane)
        shown.append({"name": plane, "count": count, "at": chosen(request, plane, count // 2, count)})
    windows = await asyncio.to_thread(
        lambda: {kind: view_window(request, job, number, item, kind) for kind in item["kinds"]}
    )
    return server.page(
        request, "view.html", planes=shown, windows=windows, methods={x: methods.title(x) for x in METHODS}, **shared
    )


def chosen(request: Request, name: str, usual: int, count: int) -> int:
    """The slice that the address names, within those that there are."""
    text = request.query_params.get(name, "")
    return min(int(text), count - 1) if text.isdecimal() and len(text) < 9 else usual


def view_window(request: Request, job: Any, number: int, item: dict[str, Any], kind: str) -> tuple[float, float]:
    """Level and width of what is shown of a kind of image: as the address says, else as usual."""
    low, high = views.window(item, kind, views.load(job.folder / "view", number, kind))
    try:
        level = float(request.query_params.get(f"{kind}-level", (low + high) / 2))
        width = abs(float(request.query_params.get(f"{kind}-width", high - low)))
    except ValueError:
        level, width = (low + high) / 2, high - low
    return (level, width) if abs(level) < 1e12 and width < 1e12 else ((low + high) / 2, high - low)


async def picture(request: Request) -> Response:
    """A slice of a source, a result or its deviation as PNG."""
    job = server.job_of(request)
    item, number = server.item_of(request, job), request.path_params["number"]
    kind, plane = request.path_params["image"], request.path_params["plane"]
    drawn = "units" in item and kind in item.get("kinds", ("source",))
    if not drawn or plane not in views.PLANES:
        raise HTTPException(404, "No such picture.")

    def draw() -> bytes:
        voxels = views.load(job.folder / "view", number, kind)
        count = views.depth(list(voxels.shape), plane)
        level, width = view_window(request, job, number, item, kind)
        image = views.cut(voxels, plane, chosen(request, "at", count // 2, count))
        return views.png(image, views.pixel(item["spacing"], plane), level - width / 2, level + width / 2)

    return Response(await asyncio.to_thread(draw), media_type="image/png", headers=CACHED)


async def explanation(request: Request) -> Response:
    """The picture of an explained image, one of its maps, or the page that `explain` has made of it."""
    job, name = server.job_of(request), request.path_params["name"]
    item = server.item_of(request, job)
    names = {"image.png", "map.png", PAGE, *(f"{one}.png" for one in item.get("maps", ()))}
    path = job.folder / "out" / str(request.path_params["number"]) / name
    if name not in names or not path.is_file():
        raise HTTPException(404, "No such picture.")
    return FileResponse(path, headers={"Content-Security-Policy": SANDBOX} if name == PAGE else CACHED)


def results(job: store.Job, items: dict[int, dict[str, Any]]) -> list[tuple[Path, str]]:
    """The files that a job has made, and their names."""
    found: list[tuple[Path, str]] = []
    for number, item in items.items():
        for place, name in enumerate(item.get("results", ())):
            found.append((job.folder / "out" / f"{number}-{place}", uploads.unique(name, [one for _, one in found])))
        if item["state"] == "done" and job.request.kind == "explain":
            for path in sorted((job.folder / "out" / str(number)).iterdir()):
                found.append((path, f"{item['title']}/{path.name}"))
    return found


async def download(request: Request) -> Response:
    """One result as a file."""
    job = server.job_of(request)
    item, number, place = server.item_of(request, job), request.path_params["number"], request.path_params["place"]
    if place >= len(item.get("results", ())):
        raise HTTPException(404, "No such file.")
    name = Path(item["results"][place]).name
    return FileResponse(job.folder / "out" / f"{number}-{place}", filename=name, media_type="application/octet-stream")


async def download_all(request: Request) -> Response:
    """All results of a job as a zip."""
    job, home = server.job_of(request), server.server(request).home

    def pack() -> str:
        files = results(job, store.progress(home, job).items)
        if not files:
            raise HTTPException(404, "This job has no results yet.")
        with tempfile.NamedTemporaryFile(dir=home, suffix=".zip", delete=False) as file:
            with zipfile.ZipFile(file, "w") as archive:  # results are packed already, or pictures
                for path, name in files:
                    archive.write(path, name)
            return file.name

    path = Path(await asyncio.to_thread(pack))
    return FileResponse(path, filename="results.zip", background=BackgroundTask(path.unlink))


async def delete(request: Request) -> Response:
    """Deletes a job with its files."""
    await server.form(request)
    job = server.job_of(request)
    await asyncio.to_thread(store.delete, job.folder)
    return server.see("/explain" if job.request.kind == "explain" else "/convert")


async def ask_region(request: Request) -> Response:
    """Takes the question which source pixels moved a box of a result, as a job of its own."""
    fields, job, found = await server.form(request), server.job_of(request), server.server(request)
    item = server.item_of(request, job)
    if job.request.kind != "convert":
        raise HTTPException(404, "No such result: a box is drawn into a converted image.")
    try:
        left, top, wide, high = (float(fields[name]) / 100 for name in ("left", "top", "width", "height"))
        at = int(fields.get("at", "0"))
    except (KeyError, ValueError):
        raise HTTPException(422, "Give the box as four numbers in per cent.") from None
    inside = 0 <= left < left + wide <= 1.0001 and 0 <= top < top + high <= 1.0001
    if not inside or not 0 <= at < item["shape"][0] or fields.get("method") not in METHODS:
        raise HTTPException(
            422, "The box must lie inside of the image, and the slice and method be some of those shown."
        )
    region = {"x": [left, left + wide], "y": [top, top + high], "at": at, "method": fields["method"]}
    region |= {"of": job.id, "item": request.path_params["number"], "spacing": item["spacing"]}

    def copy() -> store.Job:
        draft = store.draft(found.home, server.session(request).user)
        paths = store.inputs(job)
        for place, number in enumerate(item["inputs"]):
            suffix = paths[number].name.partition(".")[2]
            (draft / "in" / f"{place:04d}.{suffix}").hardlink_to(paths[number])
        names = [job.request.names[number] for number in item["inputs"]]
        wanted = job.request._replace(kind="region", names=names, left=[], samples=0, region=region)
        return store.accept(found.home, draft, wanted)

    with server.admission(found):
        return server.see(f"/jobs/{(await asyncio.to_thread(copy)).id}")


ITEM = "/jobs/{job}/{number:int}"
ROUTES = [
    *(Route(f"/{kind}", partial(start, kind=kind)) for kind in TITLES),
    *(Route(f"/{kind}", partial(send, kind=kind), methods=["POST"]) for kind in TITLES),
    Route("/jobs/{job}", show),
    Route("/jobs/{job}/delete", delete, methods=["POST"]),
    Route("/jobs/{job}/all.zip", download_all),
    Route(ITEM, show_item),
    Route(ITEM + "/file/{place:int}", download),
    Route(ITEM + "/region", ask_region, methods=["POST"]),
    Route(ITEM + "/slice/{image}-{plane}.png", picture),
    Route(ITEM + "/explanation/{name}", explanation),
]
