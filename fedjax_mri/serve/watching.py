"""The pages on runs: their table, curves while they train, comparisons, reports; and trainings that users start."""

import asyncio
import base64
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from fedjax_mri.core.errors import UserError
from fedjax_mri.report import run_figures
from fedjax_mri.report.figures import svg
from fedjax_mri.serve import runs, server, training
from fedjax_mri.serve.pages import SANDBOX

MOST = 8  # runs that are compared


async def show_runs(request: Request) -> Response:
    """The table of all runs."""
    found = server.server(request)

    def read() -> list[runs.Row]:
        return [runs.row(name, run) for name, run in runs.find(found.places).items()]

    rows = await asyncio.to_thread(read)
    now = {f"runs/{one.name}" for one in training.every(found.home) if training.runs_now(one)}
    return server.page(request, "runs.html", title="Runs", rows=rows, now=now)


def chosen(request: Request) -> dict[str, Path]:
    """The runs that the address names. Raises HTTPException on none, on too many, and on names of none."""
    names, known = request.query_params.getlist("run"), runs.find(server.server(request).places)
    if not names or len(names) > MOST:
        raise HTTPException(400, f"Choose 1 to {MOST} runs.")
    if unknown := [name for name in names if name not in known]:
        raise HTTPException(404, f"{unknown[0][:80]}: no such run.")
    return {name: known[name] for name in names}


def curves(found: dict[str, Path]) -> str:
    """The curves of runs as the address of a picture, which may have styles of its own; "" before any evaluation."""
    histories = runs.histories(found)
    if not any(history for history, _ in histories.values()):
        return ""
    drawn = svg(run_figures.histories(histories)).encode()
    return "data:image/svg+xml;base64," + base64.b64encode(drawn).decode()


async def compare(request: Request) -> Response:
    """Figures and curves of some runs side by side."""
    found = await asyncio.to_thread(chosen, request)
    rows = await asyncio.to_thread(lambda: [runs.row(name, run) for name, run in found.items()])
    drawn = await asyncio.to_thread(curves, found)
    names = [(test, key) for row in rows for test, figures in row.figures.items() for key in figures]
    return server.page(
        request,
        "compare.html",
        title="Runs compared",
        rows=rows,
        names=list(dict.fromkeys(names)),
        curves=drawn,
        unfinished=any(0 < row.round < row.rounds for row in rows),
    )


async def report(request: Request) -> Response:
    """The report that training has written of a run, or of all variants of its config."""
    run = next(iter((await asyncio.to_thread(chosen, request)).values()))
    path = next((one / "report.html" for one in (run, run.parent) if (one / "report.html").is_file()), None)
    if path is None:
        raise HTTPException(404, "This run has no report yet.")
    return FileResponse(path, headers={"Content-Security-Policy": SANDBOX})


async def show_trainings(request: Request) -> Response:
    """What may be trained, and what was."""
    found = server.server(request)
    known = await asyncio.to_thread(training.choices, found.configs)
    listed = [(one, training.runs_now(one)) for one in training.every(found.home)]
    return server.page(request, "train.html", title="Train", choices=known, data=found.data, trainings=listed)


async def start(request: Request) -> Response:
    """Starts a training of a config on data, both of which the server's owner has allowed."""
    fields, found = await server.form(request), server.server(request)
    known = await asyncio.to_thread(training.choices, found.configs)
    choice, data = known.get(fields.get("config", "")), fields.get("data", "")
    if choice is None or (data and data not in found.data):
        raise HTTPException(422, "Choose a config and data of those that the page lists.")
    if data and not choice.takes_data:
        raise HTTPException(422, f"{fields['config']}: has data of its own, and reads no folder.")
    if sum(map(training.runs_now, training.every(found.home))) >= found.settings.trainings:
        raise HTTPException(
            503, "As many trainings run as the server allows: wait, or stop one.", {"Retry-After": "60"}
        )
    folder, user = ((data, found.data[data]) if data else None), server.session(request).user
    one = training.start(found.home, fields["config"], choice, folder, fields.get("rounds", "").strip(), user)
    return server.see(f"/train/{one.name}")


def training_of(request: Request) -> training.Training:
    """The training that the path names. Raises HTTPException where there is none."""
    one = training.find(server.server(request).home, request.path_params["name"])
    if one is None:
        raise HTTPException(404, "No such training.")
    return one


async def show_training(request: Request) -> Response:
    """How a training goes: its output and its curves."""
    one, home = training_of(request), server.server(request).home
    found = {name: run for name, run in runs.find([home / "runs"]).items() if name.split("/")[1] == one.name}

    def draw() -> str:
        try:
            return curves({name: run for name, run in found.items() if (run / "run.json").exists()})
        except UserError:
            return ""

    return server.page(
        request,
        "training.html",
        one=one,
        now=training.runs_now(one),
        words=training.words(home, one),
        curves=await asyncio.to_thread(draw),
        found={name: runs.ability(run) for name, run in found.items()},
        mine=one.user == server.session(request).user,
    )


async def stop(request: Request) -> Response:
    """Asks a training of one's own to save its state and end."""
    await server.form(request)
    one = training_of(request)
    if one.user != server.session(request).user:
        raise HTTPException(403, "This training was started by another user.")
    training.stop(one)
    return server.see(f"/train/{one.name}")


ROUTES = [
    Route("/runs", show_runs),
    Route("/runs/compare", compare),
    Route("/runs/report", report),
    Route("/train", show_trainings),
    Route("/train", start, methods=["POST"]),
    Route("/train/{name}", show_training),
    Route("/train/{name}/stop", stop, methods=["POST"]),
]
