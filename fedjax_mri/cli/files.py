"""The commands that turn files or models into files: convert, prepare, explain, export, phantom."""

import argparse
from collections.abc import Sequence
from typing import Any

from fedjax_mri.cli.arguments import refuse_flags
from fedjax_mri.cli.bar import Bar
from fedjax_mri.core.errors import UserError


def convert(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Converts each input into the other modality; returns 1 where some were refused."""
    from fedjax_mri.convert import command, translate
    from fedjax_mri.data.files import discover
    from fedjax_mri.run import config

    settings = config.override(command.Settings(), flags)
    files, lines = discover.find(options.inputs, options.out)
    translator = translate.translate(options.run, options.to)
    job = command.prepare(translator, options.to, options.out, options.force, options.samples, settings)
    for line in lines:
        print(line)
    with Bar(len(files), "file") as bar:
        converted, refused = command.convert(job, files, bar.say, bar.step)
    print(f"{converted} converted, {refused} refused")
    return 1 if refused else 0


def prepare(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Prepares the files below a folder for training; returns 1 where some were refused."""
    from fedjax_mri.data.prepare import steps
    from fedjax_mri.prepare import command

    refuse_flags(flags)
    job = command.Job(steps.parse(options.steps), options.out, options.force, options.modality)
    patients, lines = command.find(options.folder, options.out)
    for line in lines:
        print(line)
    with Bar(len(patients), "patient") as bar:
        prepared, refused = command.prepare(job, patients, bar.say, bar.step)
    print(f"{prepared} prepared, {refused} refused" + (f": {options.out / 'prepared.html'}" if prepared else ""))
    return 1 if refused else 0


def explain(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Writes a page of explanations for each input; returns 1 where some inputs or methods were refused."""
    from fedjax_mri.data.files import discover
    from fedjax_mri.explain import command
    from fedjax_mri.run import config

    settings = config.override(command.Settings(), flags)
    runs, names = [options.run, *options.ensemble], options.methods.split(",")
    files, lines = discover.find(options.inputs, options.out)
    job = command.prepare(runs, names, options.out, print, options.force, options.masks, settings)
    for line in lines:
        print(line)
    with Bar(len(files), "file") as bar:
        explained, refused = command.explain(job, files, bar.say, bar.step)
    print(f"{explained} explained, {refused} refused" + (f": {options.out / 'index.html'}" if explained else ""))
    return 1 if refused or len(job.explainers) < len(set(names)) else 0


def export(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Writes a run's model for programs without this package."""
    from fedjax_mri.run import export

    refuse_flags(flags)
    for path in export.export(options.run, options.out, options.batch):
        print(path)


def phantom(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Draws a picture with a row for each synthetic site: CT, MR, tissues, tumour; or several patients."""
    from fedjax_mri.data.phantom import Phantom
    from fedjax_mri.data.phantom.gallery import save_gallery, save_sheet
    from fedjax_mri.data.phantom.skin import Skin
    from fedjax_mri.data.phantom.thorax import Thorax
    from fedjax_mri.run import config

    if options.sites < 1:
        raise UserError(f"--sites {options.sites}: must be 1 or more")
    if options.kind == "head":
        save_gallery(config.override(Phantom(), flags), options.sites, options.seed, options.out)
    else:
        settings: Any = Thorax() if options.kind == "thorax" else Skin()
        save_sheet(config.override(settings, flags), options.sites, options.seed, options.out)
    print(options.out)
