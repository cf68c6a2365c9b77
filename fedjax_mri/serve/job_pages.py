"""The pages to convert and to explain: a form, the jobs of a user, their results."""

import asyncio
import re
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
from fedjax_mri.serve import shared, store, uploads, views
from fedjax_mri.serve.explaining import PAGE
from fedjax_mri.serve.runs import Ability
from fedjax_mri.serve.shared import server_of, user_of
from fedjax_mri.xai import methods

TITLES = {"convert": "Convert", "explain": "Explain"}
NUMBER = re.compile(r"[+-]?\d{1,6}(\.\d{1,6})?")
NEWEST = 100  # jobs that are listed
CACHED = {"Cache-Control": "private, max-age=3600"}
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # of pages that `report` has made


def start(request: Request, kind: str) -> Response:
    """Shows the form of a kind of job, and the user's jobs."""
    home, abilities = server_of(request).home, shared.abilities(request)
    jobs = store.jobs_of(home, user_of(request))[:NEWEST]
    return shared.page(
        request,
        "start.html",
        kind=kind,
        title=TITLES[kind],
        runs={name: one for name, one in abilities.items() if (one.makes if kind == "convert" else one.classes)},
        jobs=[(job, store.progress(job)) for job in jobs],
        settings=server_of(request).settings,
        endings=",".join([*endings(), ".zip"]),
        chosen=request.query_params.get("run", ""),
    )


async def send(request: Request, kind: str) -> Response:
    """Takes files as a new job."""
    server, abilities = server_of(request), await asyncio.to_thread(shared.abilities, request)
    with shared.draft(server, user_of(request)) as draft:
        form = await uploads.receive(request, server.settings)
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        shared.check_csrf(request, fields.get("csrf"))
        chosen = fields.get("run", "")
        run, _, to = chosen.rpartition(" to ") if kind == "convert" else (chosen, "", "")
        ability = abilities.get(run, Ability())
        if not (to in ability.makes if kind == "convert" else ability.classes):
            text = (
                f"{chosen[:80] or 'No run'}: no run here can do this; reload the page (F5), and choose one of its list."
            )
            raise HTTPException(422, text)
        offset = fields.get("ct_offset", "").strip()
        if offset and not NUMBER.fullmatch(offset):
            raise HTTPException(422, f"CT offset {offset[:20]}: give a number of HU, such as -1024.")
        names, left_out = await asyncio.to_thread(uploads.take, uploads.sent(form), draft / "in", server.settings)
        wanted = store.Request(kind, run, names, to, left_out=left_out, ct_offset=float(offset) if offset else None)
        samples = server.settings.samples if fields.get("uncertainty") else 0
        job = store.accept(draft, wanted._replace(samples=samples))
        await form.close()
    return shared.redirect(f"/jobs/{job.id}")


def show(request: Request) -> Response:
    """Shows how far a job is, and what it has made; its only item at once."""
    job = shared.job_of(request)
    progress = store.progress(job)
    number, item = next(iter(progress.items.items()), (0, {}))
    if progress.state == "done" and progress.total == 1 and item.get("state") == "done":
        return shared.redirect(f"/jobs/{job.id}/{number}")
    return shared.page(request, "job.html", job=job, progress=progress)


def show_item(request: Request) -> Response:
    """Shows one result: source and result side by side, or a prediction with its explanation."""
    job = shared.job_of(request)
    item, number, progress = shared.item_of(request, job), request.path_params["number"], store.progress(job)
    content = {"job": job, "item": item, "number": number, "several": progress.total > 1, "lines": progress.lines}
    if job.request.kind != "convert":
        return shared.page(request, {"explain": "explained.html", "region": "region.html"}[job.request.kind], **content)
    planes = []
    for plane in views.PLANES if item["shape"][0] > 1 else views.PLANES[:1]:
        count = views.depth(item["shape"], plane)
        planes.append({"name": plane, "count": count, "at": chosen_slice(request, plane, count)})
    kinds = {"source": "Source", "result": "Result", "deviation": "Uncertainty (standard deviation)"}
    windows = {kind: chosen_window(request, item, kind) for kind in kinds if kind in item["windows"]}
    titles = {method: methods.title(method) for method in METHODS}
    return shared.page(request, "view.html", planes=planes, windows=windows, names=kinds, methods=titles, **content)


def chosen_slice(request: Request, name: str, count: int) -> int:
    """Returns the slice that the address names, within those that there are; else the middle one."""
    text = request.query_params.get(name, "")
    return min(int(text), count - 1) if text.isdecimal() and len(text) < 9 else count // 2


def chosen_window(request: Request, item: dict[str, Any], kind: str) -> tuple[float, float]:
    """Returns level and width of what is shown of a kind of image: as the address says, else as usual."""
    chosen = [request.query_params.get(f"{kind}-{name}", "") for name in ("level", "width")]
    usual_level, usual_width = item["windows"][kind]
    try:
        level, width = map(float, chosen)
    except ValueError:
        return usual_level, usual_width
    return (level, abs(width)) if abs(level) + abs(width) < 1e12 else (usual_level, usual_width)


def picture(request: Request) -> Response:
    """Draws a slice of a source, a result or its deviation as PNG."""
    job = shared.job_of(request)
    item, number = shared.item_of(request, job), request.path_params["number"]
    kind, plane = request.path_params["image"], request.path_params["plane"]
    if kind not in item.get("windows", ()) or plane not in views.PLANES:
        raise HTTPException(404, "No such picture.")
    voxels = views.load(job.folder / "view", number, kind)
    level, width = chosen_window(request, item, kind)
    image = views.cut(voxels, plane, chosen_slice(request, "at", views.depth(list(voxels.shape), plane)))
    drawn = views.png(image, views.pixel(item["spacing"], plane), level - width / 2, level + width / 2)
    return Response(drawn, media_type="image/png", headers=CACHED)


def explanation(request: Request) -> Response:
    """Sends the picture of an explained image, one of its maps, or the page that `explain` has made of it."""
    job, name = shared.job_of(request), request.path_params["name"]
    names = {"image.png", "map.png", PAGE, *(f"{one}.png" for one in shared.item_of(request, job).get("maps", ()))}
    path = job.folder / "out" / str(request.path_params["number"]) / name
    if name not in names or not path.is_file():
        raise HTTPException(404, "No such picture.")
    return FileResponse(path, headers={"Content-Security-Policy": SANDBOX} if name == PAGE else CACHED)


def results(job: store.Job) -> list[tuple[Path, str]]:
    """Returns the files that a job has made, and their names."""
    found: list[tuple[Path, str]] = []
    for number, item in store.progress(job).items.items():
        for place, name in enumerate(item.get("results", ())):
            found.append((job.folder / "out" / f"{number}-{place}", uploads.unique(name, [one for _, one in found])))
        if item["state"] == "done" and job.request.kind == "explain":
            paths = sorted((job.folder / "out" / str(number)).iterdir())
            found += [(path, f"{item['title']}/{path.name}") for path in paths]
    return found


def download(request: Request) -> Response:
    """Sends one result as a file."""
    job = shared.job_of(request)
    names, place = shared.item_of(request, job).get("results", ()), request.path_params["place"]
    if place >= len(names):
        raise HTTPException(404, "No such file.")
    path = job.folder / "out" / f"{request.path_params['number']}-{place}"
    return FileResponse(path, filename=Path(names[place]).name, media_type="application/octet-stream")


def download_all(request: Request) -> Response:
    """Sends all results of a job as a zip."""
    files = results(shared.job_of(request))
    if not files:
        raise HTTPException(404, "This job has no results yet.")
    with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file, zipfile.ZipFile(file, "w") as archive:
        for path, name in files:  # they are packed already, or pictures
            archive.write(path, name)
    return FileResponse(file.name, filename="results.zip", background=BackgroundTask(Path(file.name).unlink))


async def delete(request: Request) -> Response:
    """Deletes a job with its files."""
    await shared.checked_form(request)
    job = shared.job_of(request)
    await asyncio.to_thread(store.delete, job.folder)
    return shared.redirect("/explain" if job.request.kind == "explain" else "/convert")


async def ask_region(request: Request) -> Response:
    """Takes the question which source pixels moved a box of a result, as a job of its own."""
    fields, job = await shared.checked_form(request), shared.job_of(request)
    item = shared.item_of(request, job)
    if job.request.kind != "convert":
        raise HTTPException(404, "No such result: a box is drawn into a converted image.")
    try:
        left, top, width, height = (float(fields[name]) / 100 for name in ("left", "top", "width", "height"))
        at = int(fields.get("at", "0"))
    except (KeyError, ValueError):
        raise HTTPException(422, "Give the box as four numbers in per cent.") from None
    inside = 0 <= left < left + width <= 1.0001 and 0 <= top < top + height <= 1.0001
    if not inside or not 0 <= at < item["shape"][0] or fields.get("method") not in METHODS:
        text = "The box must lie inside of the image, and the slice and method be some of those shown."
        raise HTTPException(422, text)
    region = {"x": [left, left + width], "y": [top, top + height], "at": at, "method": fields["method"]}
    region |= {"of": job.id, "item": request.path_params["number"], "spacing": item["spacing"]}
    with shared.draft(server_of(request), user_of(request)) as draft:
        files = job.files
        asked = [files[number] for number in item["inputs"]]
        for place, file in enumerate(asked):
            (draft / "in" / f"{place:04d}.{file.path.name.partition('.')[2]}").hardlink_to(file.path)
        names = [str(file.name) for file in asked]
        wanted = job.request._replace(kind="region", names=names, left_out=[], samples=0, region=region)
        return shared.redirect(f"/jobs/{store.accept(draft, wanted).id}")


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
