"""The arguments that each command takes."""

import argparse
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from fedjax_mri.core.errors import UserError
from fedjax_mri.run import launch

FIELDS = "; any field of the config can be set as --section.field value (see `show`)"

LIMITS = """limits and their defaults:
  --queue N            jobs that may wait or run (64)
  --files N            files of one upload, those in zips included (600)
  --upload-mb N        MB of one upload (512)
  --unpacked-mb N      MB of its files when zips are unpacked (2048)
  --limits.pixels N    pixels of a slice (67108864)
  --limits.bytes N     bytes of a file (1073741824)
  --keep-hours HOURS   after which an ended job is deleted (24)
  --batch N            slices that a model is shown at a time (4)
  --samples N          draws for an uncertainty (8)
  --trainings N        trainings at a time (1)
  --methods NAMES      maps of an explanation (gradcam,ig,lrp)"""


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what it does not understand."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def seed(word: str) -> int:
    """Returns a seed that was typed. Raises ArgumentTypeError, saying what is expected, where it is none."""
    from fedjax_mri.core import fields

    value = int(word) if word.isdecimal() else word
    if fields.coerce("--seed", value, fields.Seed) is fields.INVALID:
        raise argparse.ArgumentTypeError(f"{word!r}: must be {fields.describe_kind(fields.Seed)}")
    return int(value)


def finite(word: str) -> float:
    """Returns a finite number that was typed. Raises ArgumentTypeError where it is none."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    raise argparse.ArgumentTypeError(f"{word!r}: must be a finite number")


def refuse_flags(flags: Sequence[str]) -> None:
    """Raises UserError when there are flags that a command does not take."""
    if flags:
        raise UserError(f"unknown argument {flags[0]}; see --help")


def parser(*commands: Callable[..., Any]) -> Parser:
    """Returns the parser of these commands, functions named as in COMMANDS. Its result has one of them as `command`."""
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
    add_path(one, "config", "config file")
    add_path(one, "--out", "run folder; with several experiments a folder for each is below it (default: runs/FILE)")
    add_only(one)
    add_path(one, "--resume-from", "start from another run's newest checkpoint")
    add_waiting(one)
    launch.flags(one)


def add_waiting(one: Parser) -> None:
    """Adds the flags that say what to do while another process writes the folder."""
    text = "wait that long for another process that writes the folder (default: 0)"
    one.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help=text)
    text = "do not watch whether a process on another machine that wrote the folder is still there"
    one.add_argument("--take-over", action="store_true", help=text)


def add_only(one: Parser) -> None:
    """Adds the flag that picks one of several experiments."""
    text = "use only the experiment of that name, if the config file has several"
    one.add_argument("--only", metavar="NAME", help=text)


def evaluate(one: Parser) -> None:
    """Adds the arguments of `evaluate`."""
    add_path(one, "runs", "run folders", nargs="+")
    one.add_argument("--best", action="store_true", help="evaluate the best checkpoint, if `early` kept one")
    launch.flags(one)


def sweep(one: Parser) -> None:
    """Adds the arguments of `sweep`."""
    add_path(one, "study", "study file")
    add_path(one, "--out", "study folder (default: runs/FILE)")
    one.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th cell only, from cell I of 0..N-1")
    one.add_argument("--slurm", type=int, metavar="N", help="submit an array job of N shards to SLURM")
    add_waiting(one)


def report(one: Parser) -> None:
    """Adds the arguments of `report`."""
    add_path(one, "run", "folder of a run or a study")
    text = "accuracy that the runs of a study should reach (default: 95 %% of the best)"
    one.add_argument("--target", type=finite, help=text)
    text = "explain a few test examples by these methods, separated by commas, at each kept checkpoint"
    one.add_argument("--methods", help=text)


def audit(one: Parser) -> None:
    """Adds the arguments of `audit`."""
    add_path(one, "run", "run folder")
    text = "also measure how much each site gains from each other site, by training without each"
    one.add_argument("--leave-one-out", action="store_true", help=text)
    text = "with --leave-one-out: rounds of each training without a site (default, 0: as many as the run)"
    one.add_argument("--rounds", type=int, default=0, help=text)


def attack(one: Parser) -> None:
    """Adds the arguments of `attack`."""
    add_path(one, "run", "run folder")
    one.add_argument("--membership", action="store_true", help="tell who was trained on (default: both attacks)")
    one.add_argument("--inversion", action="store_true", help="reconstruct images from a hospital's update")
    text = "shadow models, half of them trained on each patient (default: 16)"
    one.add_argument("--shadows", type=int, default=16, metavar="N", help=text)
    text = "rounds of each shadow model (default, 0: as many as the run)"
    one.add_argument("--rounds", type=int, default=0, metavar="N", help=text)
    text = "numbers of images that an attacked hospital holds (default: 1 4 16)"
    one.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], metavar="N", help=text)
    text = "hospitals attacked for each number of images (default: 3)"
    one.add_argument("--trials", type=int, default=3, metavar="N", help=text)
    text = "hospitals of whose updates the attacker sees the sum alone, as with secure aggregation (default: 1)"
    one.add_argument("--cohort", type=int, default=1, metavar="N", help=text)
    text = "steps of the search for images (default: 1500)"
    one.add_argument("--steps", type=int, default=1500, metavar="N", help=text)
    text = "look for images in an update of the newest model, not of the first round's"
    one.add_argument("--newest", action="store_true", help=text)


def show(one: Parser) -> None:
    """Adds the arguments of `show`."""
    add_path(one, "config", "config file")
    add_only(one)
    add_machine(one, "tell the costs on this machine, which need not be here")


def add_machine(one: Parser, text: str, **more: Any) -> None:
    """Adds the flag that names a machine."""
    text += ": a100, h100, h200, b200, v5e, v5p or v6e, and how many of them, such as h200:8"
    one.add_argument("--for", dest="machine", metavar="MACHINE", help=text, **more)


def compile(one: Parser) -> None:
    """Adds the arguments of `compile`."""
    add_path(one, "config", "config file")
    add_machine(one, "the machine to compile for", required=True)
    add_only(one)
    add_path(one, "--out", "JSON file of all that is found (default: CONFIG-MACHINE.json)")
    text = "try these (default: those that training would measure)"
    one.add_argument("--lanes", type=int, nargs="+", default=[], metavar="N", help=text)
    one.add_argument("--conv", nargs="+", default=[], choices=("xla", "gemm", "direct", "each"), help=text)
    text = "try these (default: as the config says)"
    one.add_argument("--precision", nargs="+", default=[], choices=("float32", "tf32", "bf16"), help=text)
    one.add_argument("--remat", nargs="+", default=[], choices=("no", "yes"), help=text)


def deploy(one: Parser) -> None:
    """Adds the arguments of `deploy`."""
    add_path(one, "config", "config file")
    add_path(one, "--site", "hospital.toml of each hospital", nargs="+", required=True, metavar="FILE")
    add_only(one)
    add_path(one, "--out", "folder for the server's and each hospital's folder (default: deploy/FILE)")


def convert(one: Parser) -> None:
    """Adds the arguments of `convert`."""
    add_path(one, "run", "run folder")
    add_files(one, "pictures, DICOM, NIfTI, MetaImage, NRRD, MGH", "files of the same names")
    one.add_argument("--to", choices=("mr", "ct"), required=True, help="modality of the results")
    text = "write the mean of N draws of the model, and their standard deviation as a second file"
    one.add_argument("--samples", type=int, default=0, metavar="N", help=text)


def prepare(one: Parser) -> None:
    """Adds the arguments of `prepare`."""
    add_path(one, "folder", "folder of PNG, JPEG, DICOM, NIfTI or other images", metavar="IN")
    add_path(one, "out", "folder for the results, in the same folders below it", metavar="OUT")
    text = "steps in order, separated by commas: resample:1mm, size:256, window:-100..300, rescale, bias, strip, "
    text += "register, crop:5mm, denoise:median, contrast:clahe, match:FILE"
    one.add_argument("--steps", required=True, help=text)
    text = "what files are that lie in no folder ct or mr and do not say it themselves"
    one.add_argument("--modality", choices=("ct", "mr"), default="", help=text)
    one.add_argument("--force", action="store_true", help="overwrite existing results")


def explain(one: Parser) -> None:
    """Adds the arguments of `explain`."""
    add_path(one, "run", "run folder")
    add_files(one, "pictures, DICOM slices", "results, a folder for each image")
    text = "names of methods, separated by commas (default: gradcam,ig,lrp)"
    one.add_argument("--methods", default="gradcam,ig,lrp", help=text)
    text = "another run of the same task, such as another seed: predictions and maps are means over all runs"
    add_path(one, "--ensemble", text, action="append", default=[], metavar="RUN")
    text = "folder of PNG files with the names of the inputs, white where the lesion is; maps are measured against them"
    add_path(one, "--masks", text, metavar="FOLDER")


def serve(one: Parser) -> None:
    """Adds the arguments of `serve`."""
    add_path(one, "runs", "run folders, or folders of them", nargs="*")
    text = "folder for uploads, results and what the page trains (default: serve)"
    add_path(one, "--out", text, default=pathlib.Path("serve"))
    one.add_argument("--host", default="127.0.0.1", help="interface to listen on (default: this machine alone)")
    one.add_argument("--port", type=int, default=8765)
    one.add_argument("--token", action="store_true", help="ask for a token, which is printed")
    add_path(one, "--users", "ask for name and password; JSON file that --add-user writes", metavar="FILE")
    one.add_argument("--add-user", metavar="NAME", help="add a user to the file of users, or change a password")
    add_path(one, "--certificate", "PEM file of the certificate for TLS", metavar="FILE")
    add_path(one, "--key", "PEM file of its key", metavar="FILE")
    more: dict[str, Any] = {"action": "append", "default": [], "metavar": "PATH"}
    add_path(one, "--config", "config file that users may train", **more)
    add_path(one, "--data", "folder of data that users may train on", **more)
    one.formatter_class, one.epilog = argparse.RawDescriptionHelpFormatter, LIMITS


def add_files(one: Parser, kinds: str, results: str) -> None:
    """Adds the arguments of a command that turns files into files."""
    add_path(one, "inputs", f"{kinds}, or folders of them", nargs="+")
    add_path(one, "--out", f"folder for {results}", required=True)
    one.add_argument("--force", action="store_true", help="overwrite existing results")


def phantom(one: Parser) -> None:
    """Adds the arguments of `phantom`."""
    one.add_argument("--kind", choices=("head", "thorax", "skin"), default="head")
    one.add_argument("--sites", type=int, default=6)
    one.add_argument("--seed", type=seed, default=0)
    add_path(one, "--out", default=pathlib.Path("grid.png"))


def export(one: Parser) -> None:
    """Adds the arguments of `export`."""
    add_path(one, "run", "run folder")
    add_path(one, "--out", "folder for the files", required=True)
    one.add_argument("--batch", type=int, default=1, help="images that the program takes at a time (default: 1)")


def doctor(one: Parser) -> None:
    """Adds the arguments of `doctor`: none."""


COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "train": ("train an experiment, or continue it" + FIELDS, train),
    "evaluate": (
        "print figures of runs side by side, on their test data or on other data, chosen by --data.FIELD",
        evaluate,
    ),
    "sweep": ("train the cells of a study; cells that share a program train together" + FIELDS, sweep),
    "report": ("write the report of a run or a study again", report),
    "audit": ("write how well a run's model serves each site: audit.csv, .md and .png in its folder", audit),
    "attack": (
        "measure what attackers get from a run: who was trained on, and the images; attack.html in its folder",
        attack,
    ),
    "show": ("print the resolved config, and what training will cost" + FIELDS, show),
    "compile": (
        "compile a config for a machine that need not be here: its memory, its exchanges, estimated times" + FIELDS,
        compile,
    ),
    "deploy": ("write what the server and each hospital start to train a config between machines" + FIELDS, deploy),
    "convert": ("turn CT files into MR, or MR files into CT, with a run's model", convert),
    "prepare": ("make files ready for training: bias field, skull strip, registration, crop and more", prepare),
    "explain": ("classify images with a run's model, and write a page with its explanation for each", explain),
    "export": ("write a run's model as a StableHLO program, its weights as safetensors, and what they mean", export),
    "doctor": ("print what a report of a fault needs: versions, devices, caches, memory, a self-test", doctor),
    "serve": (
        "serve a web page to convert, explain, watch and train",
        serve,
    ),
    "phantom": ("draw images of synthetic sites; any field of the phantom can be set as --field value", phantom),
}
