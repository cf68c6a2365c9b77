"""The command `fedjax-mri`: words in, words out; all else is in the package."""

import argparse
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedjax_mri.cli import arguments
from fedjax_mri.cli.bar import Bar
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import launch

LINE = 12  # figures that `evaluate` says in a line; more get a table


@dataclass(frozen=True)
class Settings:
    """The part of a config that `evaluate` lets flags change."""

    data: Any


def main(given: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 bad input (one line on stderr), 128 + n stopped by signal n."""
    words, flags = parser().parse_known_args(given)
    try:
        if launch.wanted(words):
            return launch.run(words, sys.argv[1:] if given is None else given)
        return obey(words, flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return give_up(1)
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint is kept", file=sys.stderr)
        return give_up(130)


def obey(words: argparse.Namespace, flags: Sequence[str]) -> int:
    """The command, in this process."""
    from fedjax_mri.run import processes

    prepare_jax()
    with processes.joined(getattr(words, "heartbeat", 0)):
        return words.command(words, flags) or 0


def give_up(code: int) -> int:
    """The exit code of a command that has failed; one of several processes does not come back from here."""
    from fedjax_mri.run import processes

    return processes.give_up(code)


def parser() -> argparse.ArgumentParser:
    """Of all commands."""
    return arguments.parser(train, evaluate, sweep, report, audit, show, convert, explain, phantom)


def prepare_jax() -> None:
    """One host device a core, where the processor is the device, and compiled programs kept between runs."""
    import jax

    from fedjax_mri.run.runfolder import cache

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", cores())
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(cache() / "xla"))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train(words: argparse.Namespace, flags: Sequence[str]) -> int:
    """Each experiment of the config file in turn, then one report for all."""
    from fedjax_mri.run import config, experiment, processes, results

    variants = resolved(words.config, flags, words.only)
    out = words.out or pathlib.Path("runs", words.config.stem)
    folders = {name: out / name if name else out for name in variants}
    for name, one in variants.items():
        print(f"{one.name}: {one.rounds} rounds, config {config.digest(one)}, in {folders[name]}", flush=True)
        with Bar(one.rounds) as bar:
            stopped = experiment.run(one, folders[name], words.resume_from, bar.say, bar.watch)
        if stopped:
            return 128 + stopped
        if processes.main():
            print(results.headline(folders[name]), flush=True)
        if one.explanations:
            explain_few(folders[name], one.explanations)
    if processes.main():
        from fedjax_mri.report import run as report  # matplotlib, after the run

        print(report.write([results.load(folder) for folder in folders.values()], out / "report.html"))
    return 0


def explain_few(run: pathlib.Path, names: Sequence[str]) -> None:
    """A run's few test examples explained, for its report; in one process."""
    import jax

    from fedjax_mri.explain import rounds

    if jax.process_count() > 1:
        print(f"explanations: left out by several processes; fedjax-mri report {run} --methods {','.join(names)}")
        return
    rounds.save(run, names, lambda line: print(line, flush=True))


def resolved(path: pathlib.Path, flags: Sequence[str], only: str | None = None) -> dict[str, Any]:
    """The experiments of a config file, or `only` the one of that name, with the flags applied to each."""
    from fedjax_mri.run import config

    found = config.load(path)
    if only is not None and only not in found:
        there = ", ".join(found) if any(found) else "one experiment, without a name"
        raise UserError(f"--only {only}: {path} has {there}")
    chosen = found if only is None else {only: found[only]}
    return {name: config.override(one, flags, f"fedjax-mri train {path}") for name, one in chosen.items()}


def sweep(words: argparse.Namespace, flags: Sequence[str]) -> int:
    """The cells of a study that are not finished; 1 where some failed."""
    from fedjax_mri.report import study as study_report
    from fedjax_mri.run import config
    from fedjax_mri.study import study, sweep

    found = study.load(words.study)
    found = replace(found, base=config.override(found.base, flags, f"fedjax-mri sweep {words.study}"))
    out, part = words.out or pathlib.Path("runs", words.study.stem), sweep.shard(words.shard)
    if words.slurm is not None:
        return submit(min(words.slurm, len(study.cells(found))), [str(words.study), "--out", str(out), *flags])
    failures = sweep.run(found, out, part, lambda line: print(line, flush=True))
    if not failures and len(sweep.rows(out)) == len(study.cells(found)):
        print(study_report.write(out))
    return 1 if failures else 0


def submit(shards: int, given: Sequence[str]) -> int:
    """The array job that carries a study out; its exit code."""
    if shards < 1:
        raise UserError(f"--slurm {shards}: give the number of shards, 1 or more")
    command = ["sbatch", f"--array=0-{shards - 1}", "scripts/slurm/sweep.sbatch", *given]
    print(shlex.join(command), flush=True)
    return subprocess.run(command).returncode if shutil.which("sbatch") else 0


def evaluate(words: argparse.Namespace, flags: Sequence[str]) -> None:
    """The figures of saved models: a line a test set, or a table where there are several models or many figures."""
    from fedjax_mri.run import config, restore, runfolder

    columns: dict[str, dict[str, float]] = {}
    for run in words.runs:
        settings = runfolder.read_config(run)
        data = config.override(Settings(settings.data), flags).data if flags else None
        prefix = f"{run.name}, " if len(words.runs) > 1 else ""
        columns |= {prefix + name: found for name, found in restore.judge(run, data, print, words.best).items()}
    if len(words.runs) > 1 or max(map(len, columns.values())) > LINE:
        print(restore.table(columns))
        return
    for name, figures in columns.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))


def report(words: argparse.Namespace, flags: Sequence[str]) -> None:
    """report.html of one run, or of the variants below the folder, or of a study."""
    from fedjax_mri.report import run as report
    from fedjax_mri.report import study as study_report
    from fedjax_mri.run import results

    refuse(flags)
    if (words.run / "study.json").exists():
        print(study_report.write(words.run, words.target))
        return
    folders = (
        [words.run]
        if (words.run / "config.json").exists()
        else sorted(p.parent for p in words.run.glob("*/config.json"))
    )
    if not folders:
        raise UserError(f"{words.run}: no run there; give the folder that `train` wrote")
    for folder in folders if words.methods else []:
        explain_few(folder, words.methods.split(","))
    print(report.write([results.load(folder) for folder in folders], words.run / "report.html"))


def audit(words: argparse.Namespace, flags: Sequence[str]) -> None:
    """Figures by site and group of sites."""
    from fedjax_mri.report import audit_page as audit_report

    refuse(flags)
    for path in audit_report.write(words.run, words.leave_one_out, words.rounds, print):
        print(path)


def show(words: argparse.Namespace, flags: Sequence[str]) -> None:
    """Every field, and the numbers that follow from them."""
    from fedjax_mri.run import config, costs

    for name, one in resolved(words.config, flags, words.only).items():
        print(f"# {name or one.name}, config {config.digest(one)}")
        for field, value in {**config.flat(one), **costs.costs(one)}.items():
            print(f"{field:32} {value}")


def convert(words: argparse.Namespace, flags: Sequence[str]) -> int:
    """Each input in the other modality; 1 where some were refused."""
    from fedjax_mri.convert import command, translate
    from fedjax_mri.data.files import discover
    from fedjax_mri.run import config

    settings = config.override(command.Settings(), flags, "fedjax-mri convert")
    translator = translate.translate(words.run, words.to)
    job = command.prepare(translator, words.to, words.out, words.force, words.samples, settings)
    files = discover.find(words.inputs, words.out)
    with Bar(len(files), "file") as bar:
        converted, refused = command.convert(job, files, bar.say, bar.step)
    print(f"{converted} converted, {refused} refused")
    return 1 if refused else 0


def explain(words: argparse.Namespace, flags: Sequence[str]) -> int:
    """Each input's page; 1 where some inputs or methods were refused."""
    from fedjax_mri.data.files import discover
    from fedjax_mri.explain import command
    from fedjax_mri.run import config

    settings = config.override(command.Settings(), flags, "fedjax-mri explain")
    runs, names = [words.run, *words.ensemble], words.methods.split(",")
    job = command.prepare(runs, names, words.out, print, words.force, words.masks, settings)
    files = discover.find(words.inputs, words.out)
    with Bar(len(files), "file") as bar:
        explained, refused = command.explain(job, files, bar.say, bar.step)
    print(f"{explained} explained, {refused} refused" + (f": {words.out / 'index.html'}" if explained else ""))
    return 1 if refused or len(job.explainers) < len(set(names)) else 0


def phantom(words: argparse.Namespace, flags: Sequence[str]) -> None:
    """A row a site: CT, MR, tissues, tumour."""
    from fedjax_mri.data.phantom import Phantom
    from fedjax_mri.data.phantom.grid import save_grid
    from fedjax_mri.run import config

    if words.sites < 1:
        raise UserError(f"--sites {words.sites}: must be 1 or more")
    settings = config.override(Phantom(), flags, "fedjax-mri phantom")
    save_grid(settings, words.sites, words.seed, words.out)
    print(words.out)


def refuse(flags: Sequence[str]) -> None:
    """Raises UserError when there are flags that a command does not take."""
    if flags:
        raise UserError(f"unknown argument {flags[0]}; see --help")
