"""The arguments that each command takes."""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from fedjax_mri.run import launch

Parser = argparse.ArgumentParser
FIELDS = "; any field of the config as --section.field value (see `show`)"


def parser(*commands: Callable[..., Any]) -> Parser:
    """The parser of these commands, functions named as in COMMANDS; what it parses has the one given as `command`."""
    top = Parser("fedjax-mri", description="Federated training over simulated hospitals.")
    each = top.add_subparsers(required=True, metavar="command")
    for command in commands:
        text, add_arguments = COMMANDS[command.__name__]
        one = each.add_parser(command.__name__, help=text, description=text, allow_abbrev=False)
        add_arguments(one)
        one.set_defaults(command=command)
    return top


def add_path(one: Parser, name: str, text: str | None = None, **more: Any) -> None:
    """Adds an argument that is a path."""
    one.add_argument(name, type=pathlib.Path, help=text, **more)


def train(one: Parser) -> None:
    """Adds the arguments of `train`."""
    add_path(one, "config")
    add_path(one, "--out", "run folder (default: runs/NAME)")
    add_only(one)
    add_path(one, "--resume-from", "start from another run's newest checkpoint")
    launch.flags(one)


def add_only(one: Parser) -> None:
    """Adds the flag that picks one of several experiments."""
    text = "of a config file with several experiments only the one of that name"
    one.add_argument("--only", metavar="NAME", help=text)


def evaluate(one: Parser) -> None:
    """Adds the arguments of `evaluate`."""
    add_path(one, "runs", nargs="+")
    one.add_argument("--best", action="store_true", help="the best checkpoint, where `early` kept one")
    launch.flags(one)


def sweep(one: Parser) -> None:
    """Adds the arguments of `sweep`."""
    add_path(one, "study")
    add_path(one, "--out", "study folder (default: runs/NAME)")
    one.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th cell alone, from the I-th of 0..N-1")
    text = "as an array job of N shards: submitted where there is SLURM, shown elsewhere"
    one.add_argument("--slurm", type=int, metavar="N", help=text)


def report(one: Parser) -> None:
    """Adds the arguments of `report`."""
    add_path(one, "run")
    one.add_argument("--target", type=float, help="accuracy to be reached in a study (default: 95 %% of the best)")
    text = "explain a few test examples by these methods, with commas, at each checkpoint that was kept"
    one.add_argument("--methods", help=text)


def audit(one: Parser) -> None:
    """Adds the arguments of `audit`."""
    add_path(one, "run")
    text = "and who gains from whom, by training without each"
    one.add_argument("--leave-one-out", action="store_true", help=text)
    one.add_argument("--rounds", type=int, default=0, help="of each such training (default: as many as the run)")


def show(one: Parser) -> None:
    """Adds the arguments of `show`."""
    add_path(one, "config")
    add_only(one)


def convert(one: Parser) -> None:
    """Adds the arguments of `convert`."""
    add_path(one, "run")
    add_files(one, "PNG, JPEG, DICOM, NIfTI", "files of the same names")
    one.add_argument("--to", choices=("mr", "ct"), required=True)
    text = "mean of N draws of the model, and their standard deviation beside it"
    one.add_argument("--samples", type=int, default=0, metavar="N", help=text)


def explain(one: Parser) -> None:
    """Adds the arguments of `explain`."""
    add_path(one, "run")
    add_files(one, "PNG, JPEG, DICOM slices", "a folder of results an image")
    one.add_argument("--methods", default="gradcam,ig,lrp", help="by name, with commas (default: gradcam,ig,lrp)")
    text = "another run of the same task, such as another seed: predictions and maps are means over all runs"
    add_path(one, "--ensemble", text, action="append", default=[], metavar="RUN")
    text = "folder of PNG of the inputs' names, white where the lesion is: maps are measured against it"
    add_path(one, "--masks", text, metavar="FOLDER")


def add_files(one: Parser, kinds: str, results: str) -> None:
    """Adds the arguments of a command that turns files into files."""
    add_path(one, "inputs", f"{kinds}, or folders of them", nargs="+")
    add_path(one, "--out", f"folder for {results}", required=True)
    one.add_argument("--force", action="store_true", help="overwrite what is there")


def phantom(one: Parser) -> None:
    """Adds the arguments of `phantom`."""
    one.add_argument("--sites", type=int, default=6)
    one.add_argument("--seed", type=int, default=0)
    add_path(one, "--out", default=pathlib.Path("grid.png"))


COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "train": ("train an experiment, or go on with it" + FIELDS, train),
    "evaluate": ("figures of the models of runs, side by side, on their own test data or --data.field value", evaluate),
    "sweep": ("train a study's cells, as many at once as share a program" + FIELDS, sweep),
    "report": ("write a run's report.html again, or draw what a study has found", report),
    "audit": ("write who a run's model serves how well: audit.csv, .md and .png in its folder", audit),
    "show": ("the resolved config, and what it will cost" + FIELDS, show),
    "convert": ("make MR of CT, or CT of MR, in files, by a run's model", convert),
    "explain": ("predict, explain and measure images by a run's classifier, with a page for each", explain),
    "phantom": ("a picture of synthetic sites; any field of the phantom as --field value", phantom),
}
