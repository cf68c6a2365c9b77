"""The pages on runs: their table, curves while they train, comparisons, reports; and trainings that users start."""

import base64
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from fedjax_mri.core.errors import UserError
from fedjax_mri.report import run_figures
from fedjax_mri.report.figures import svg
from fedjax_mri.run import results, runfolder
from fedjax_mri.serve import runs, shared, training
from fedjax_mri.serve.job_pages import SANDBOX
from fedjax_mri.serve.shared import server_of, user_of

MOST = 8  # runs that are compared


def show_runs(request: Request) -> Response:
    """Shows the table of all runs."""
    server = server_of(request)
    rows = [runs.row(name, run) for name, run in runs.find(server.places).items()]
    training_now = {f"runs/{one.name}" for one in training.every(server.home) if training.is_running(one)}
    return shared.page(request, "runs.html", title="Runs", rows=rows, training_now=training_now)


def chosen_runs(request: Request) -> dict[str, Path]:
    """Returns the runs that the address names. Raises HTTPException on none, on too many, and on unknown names."""
    names, known = request.query_params.getlist("run"), runs.find(server_of(request).places)
    if not names or len(names) > MOST:
        raise HTTPException(400, f"Go back to Runs, and choose 1 to {MOST} runs there.")
    if unknown := [name for name in names if name not in known]:
        raise HTTPException(404, f"{unknown[0][:80]}: no such run; go back to Runs, and choose one there.")
    return {name: known[name] for name in names}


def curves(found: dict[str, Path]) -> str:
    """Returns the curves of runs as the address of a picture, which may have styles of its own.

    It is "" before any evaluation.
    """
    histories = {
        name: (results.history(run), list(runfolder.read_json(run / "run.json").get("headline", ())))
        for name, run in found.items()
        if (run / "run.json").exists()
    }
    if not any(history for history, _ in histories.values()):
        return ""
    drawn = svg(run_figures.histories(histories)).encode()
    return "data:image/svg+xml;base64," + base64.b64encode(drawn).decode()


def compare(request: Request) -> Response:
    """Shows figures and curves of some runs side by side."""
    chosen = chosen_runs(request)
    rows = [runs.row(name, run) for name, run in chosen.items()]
    names = [(test, key) for row in rows for test, figures in row.figures.items() for key in figures]
    return shared.page(
        request,
        "compare.html",
        title="Runs compared",
        rows=rows,
        names=list(dict.fromkeys(names)),
        curves=curves(chosen),
        unfinished=any(0 < row.round < row.rounds for row in rows),
    )


def report(request: Request) -> Response:
    """Sends the report that training has written of a run, or of all variants of its config."""
    path = runs.report(next(iter(chosen_runs(request).values())))
    if path is None:
        raise HTTPException(404, "This run has no report yet: training writes it at its end.")
    return FileResponse(path, headers={"Content-Security-Policy": SANDBOX})


def show_trainings(request: Request) -> Response:
    """Shows what may be trained, and what was."""
    server = server_of(request)
    trainings = [(one, training.state(server.home, one)) for one in training.every(server.home)]
    return shared.page(
        request, "train.html", title="Train", choices=server.choices, data=server.data, trainings=trainings
    )


async def start(request: Request) -> Response:
    """Starts a training of a config on data, both of which the server's owner has allowed."""
    fields, server = await shared.checked_form(request), server_of(request)
    title, data = fields.get("config", ""), fields.get("data", "")
    choice = server.choices.get(title)
    if choice is None or (data and data not in server.data):
        raise HTTPException(422, "The server offers no such config or data: reload the page, and choose again.")
    if data and not choice.takes_data:
        raise HTTPException(422, f'{title}: reads no folder; choose the data "as the config says".')
    if sum(map(training.is_running, training.every(server.home))) >= server.settings.trainings:
        text = "As many trainings run as the server allows: wait, or stop one."
        raise HTTPException(503, text, {"Retry-After": "60"})
    folder, rounds = (data, server.data[data]) if data else None, fields.get("rounds", "").strip()
    one = training.start(server.home, title, choice, folder, rounds, user_of(request))
    return shared.redirect(f"/train/{one.name}")


def training_of(request: Request) -> training.Training:
    """Returns the training that the path names. Raises HTTPException where there is none."""
    name = request.path_params["name"]
    one = next((one for one in training.every(server_of(request).home) if one.name == name), None)
    if one is None:
        raise HTTPException(404, "No such training: choose one on the page Train.")
    return one


def show_training(request: Request) -> Response:
    """Shows how a training goes: its output and its curves."""
    one, home = training_of(request), server_of(request).home
    found = {name: run for name, run in runs.find([home / "runs"]).items() if name.split("/")[1] == one.name}
    try:
        drawn = curves(found)
    except UserError:  # a file that is half written
        drawn = ""
    return shared.page(
        request,
        "training.html",
        training=one,
        state=training.state(home, one),
        output=training.output(home, one),
        curves=drawn,
        abilities={name: runs.ability(run) for name, run in found.items()},
        mine=one.user == user_of(request),
    )


async def stop(request: Request) -> Response:
    """Asks a training of one's own to save its state and end."""
    await shared.checked_form(request)
    one = training_of(request)
    if one.user != user_of(request):
        raise HTTPException(403, "This training was started by another user: ask them, or the server's owner.")
    training.stop(one)
    return shared.redirect(f"/train/{one.name}")


ROUTES = [
    Route("/runs", show_runs),
    Route("/runs/compare", compare),
    Route("/runs/report", report),
    Route("/train", show_trainings),
    Route("/train", start, methods=["POST"]),
    Route("/train/{name}", show_training),
    Route("/train/{name}/stop", stop, methods=["POST"]),
]
