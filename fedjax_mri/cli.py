"""The command `fedjax-mri`: words in, words out; all else is in the package."""

import argparse
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedjax_mri import launch
from fedjax_mri.errors import UserError

LINE = 12  # figures that `evaluate` says in a line; more get a table


@dataclass(frozen=True)
class Settings:
    """The part of a config that `evaluate` lets flags change."""

    data: Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 bad input (one line on stderr), 128 + n stopped by signal n."""
    words, flags = parser().parse_known_args(arguments)
    try:
        if launch.wanted(words):
            return launch.run(words, sys.argv[1:] if arguments is None else arguments)
        return obey(words, flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return give_up(1)
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint is kept", file=sys.stderr)
        return give_up(130)


def obey(words: argparse.Namespace, flags: Sequence[str]) -> int:
    """The command, in this process."""
    from fedjax_mri import processes

    prepare_jax()
    with processes.joined(getattr(words, "heartbeat", 0)):
        return words.command(words, flags) or 0


def give_up(code: int) -> int:
    """The exit code of a command that has failed; one of several processes does not come back from here."""
    from fedjax_mri import processes

    return processes.give_up(code)


def parser() -> argparse.ArgumentParser:
    """The commands."""
    top = argparse.ArgumentParser("fedjax-mri", description="Federated training over simulated hospitals.")
    commands = top.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[..., Any], text: str, *positional: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for argument in positional:
            one.add_argument(argument, type=pathlib.Path)
        one.set_defaults(command=run)
        return one

    flags = "; any field of the config as --section.field value (see `show`)"
    only = "of a config file with several experiments the one of that name"
    train_ = command("train", train, "train an experiment, or go on with it" + flags, "config")
    train_.add_argument("--out", type=pathlib.Path, help="run folder (default: runs/NAME)")
    train_.add_argument("--only", metavar="NAME", help=only)
    train_.add_argument("--resume-from", type=pathlib.Path, help="start from another run's newest checkpoint")
    launch.flags(train_)
    text = "judge the models of runs, side by side, on their own test data or --data.field value"
    evaluate_ = command("evaluate", evaluate, text)
    evaluate_.add_argument("runs", type=pathlib.Path, nargs="+")
    evaluate_.add_argument("--best", action="store_true", help="the best checkpoint, where `early` kept one")
    launch.flags(evaluate_)
    sweep_ = command("sweep", sweep, "train a study's cells, as many at once as share a program" + flags, "study")
    sweep_.add_argument("--out", type=pathlib.Path, help="study folder (default: runs/NAME)")
    sweep_.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th cell alone, from the I-th of 0..N-1")
    text = "as an array job of N shards: submitted where there is SLURM, shown elsewhere"
    sweep_.add_argument("--slurm", type=int, metavar="N", help=text)
    report_ = command("report", report, "write a run's report.html again, or draw what a study has found", "run")
    report_.add_argument("--target", type=float, help="accuracy to be reached in a study (default: 95 %% of the best)")
    text = "explain a few test examples by these methods, with commas, at each checkpoint that was kept"
    report_.add_argument("--methods", help=text)
    text = "write who a run's model serves how well: audit.csv, .md and .png in its folder"
    audit_ = command("audit", audit, text, "run")
    audit_.add_argument(
        "--leave-one-out", action="store_true", help="and who gains from whom, by training without each"
    )
    audit_.add_argument("--rounds", type=int, default=0, help="of each such training (default: as many as the run)")
    show_ = command("show", show, "the resolved config, and what it will cost" + flags, "config")
    show_.add_argument("--only", metavar="NAME", help=only)
    convert_flags(command("convert", convert, "make MR of CT, or CT of MR, in files, by a run's model", "run"))
    text = "predict, explain and measure images by a run's classifier, with a page for each"
    explain_flags(command("explain", explain, text, "run"))
    phantom_ = command("phantom", phantom, "a picture of synthetic sites; any field of the phantom as --field value")
    phantom_.add_argument("--sites", type=int, default=6)
    phantom_.add_argument("--seed", type=int, default=0)
    phantom_.add_argument("--out", type=pathlib.Path, default=pathlib.Path("grid.png"))
    return top


def convert_flags(one: argparse.ArgumentParser) -> None:
    """What `convert` takes besides a run."""
    file_flags(one, "PNG, JPEG, DICOM, NIfTI", "files of the same names")
    one.add_argument("--to", choices=("mr", "ct"), required=True)
    text = "mean of N draws of the model, and their standard deviation beside it"
    one.add_argument("--samples", type=int, default=0, metavar="N", help=text)


def explain_flags(one: argparse.ArgumentParser) -> None:
    """What `explain` takes besides a run."""
    file_flags(one, "PNG, JPEG, DICOM slices", "a folder of results an image")
    one.add_argument("--methods", default="gradcam,ig,lrp", help="by name, with commas (default: gradcam,ig,lrp)")
    text = "another run of the same task, such as another seed: predictions and maps are means over all runs"
    one.add_argument("--ensemble", type=pathlib.Path, action="append", default=[], metavar="RUN", help=text)
    text = "folder of PNG of the inputs' names, white where the lesion is: maps are measured against it"
    one.add_argument("--masks", type=pathlib.Path, metavar="FOLDER", help=text)


def file_flags(one: argparse.ArgumentParser, kinds: str, results: str) -> None:
    """Files in, files out."""
    one.add_argument("inputs", type=pathlib.Path, nargs="+", help=f"{kinds}, or folders of them")
    one.add_argument("--out", type=pathlib.Path, required=True, help=f"folder for {results}")
    one.add_argument("--force", action="store_true", help="overwrite what is there")


def prepare_jax() -> None:
    """One host device a core, where the processor is the device, and compiled programs kept between runs."""
    import jax

    from fedjax_mri.runfolder import cache

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", cores())
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(cache() / "xla"))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train(words: argparse.Namespace, flags: Sequence[str]) -> int:
    """Each experiment of the config file in turn, then one report for all."""
    from fedjax_mri import config, experiment, processes, results

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
        from fedjax_mri import report  # matplotlib, after the run

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
    from fedjax_mri import config

    found = config.load(path)
    if only is not None and only not in found:
        there = ", ".join(found) if any(found) else "one experiment, without a name"
        raise UserError(f"--only {only}: {path} has {there}")
    chosen = found if only is None else {only: found[only]}
    return {name: config.override(one, flags, f"fedjax-mri train {path}") for name, one in chosen.items()}


def sweep(words: argparse.Namespace, flags: Sequence[str]) -> int:
    """The cells of a study that are not finished; 1 where some failed."""
    from fedjax_mri import config, study, study_report, sweep

    found = study.load(words.study)
    found = replace(found, base=config.override(found.base, flags, f"fedjax-mri sweep {words.study}"))
    out, part = words.out or pathlib.Path("runs", words.study.stem), sweep.shard(words.shard)
    if words.slurm is not None:
        return submit(min(words.slurm, len(study.cells(found))), [str(words.study), "--out", str(out), *flags])
    failures = sweep.run(found, out, part, lambda line: print(line, flush=True))
    if not failures and len(sweep.rows(out)) == len(study.cells(found)):
        print(study_report.write(out))
    return 1 if failures else 0


def submit(shards: int, arguments: Sequence[str]) -> int:
    """The array job that carries a study out; its exit code."""
    if shards < 1:
        raise UserError(f"--slurm {shards}: give the number of shards, 1 or more")
    command = ["sbatch", f"--array=0-{shards - 1}", "scripts/slurm/sweep.sbatch", *arguments]
    print(shlex.join(command), flush=True)
    return subprocess.run(command).returncode if shutil.which("sbatch") else 0


def evaluate(words: argparse.Namespace, flags: Sequence[str]) -> None:
    """The figures of saved models: a line a test set, or a table where there are several models or many figures."""
    from fedjax_mri import config, judge, runfolder

    columns: dict[str, dict[str, float]] = {}
    for run in words.runs:
        settings = runfolder.read_config(run)
        data = config.override(Settings(settings.data), flags).data if flags else None
        prefix = f"{run.name}, " if len(words.runs) > 1 else ""
        columns |= {prefix + name: found for name, found in judge.judge(run, data, print, words.best).items()}
    if len(words.runs) > 1 or max(map(len, columns.values())) > LINE:
        print(judge.table(columns))
        return
    for name, figures in columns.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))


def report(words: argparse.Namespace, flags: Sequence[str]) -> None:
    """report.html of one run, or of the variants below the folder, or of a study."""
    from fedjax_mri import report, results, study_report

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
    from fedjax_mri import audit_report

    refuse(flags)
    for path in audit_report.write(words.run, words.leave_one_out, words.rounds, print):
        print(path)


def show(words: argparse.Namespace, flags: Sequence[str]) -> None:
    """Every field, and the numbers that follow from them."""
    from fedjax_mri import config, costs

    for name, one in resolved(words.config, flags, words.only).items():
        print(f"# {name or one.name}, config {config.digest(one)}")
        for field, value in {**config.flat(one), **costs.costs(one)}.items():
            print(f"{field:32} {value}")


def convert(words: argparse.Namespace, flags: Sequence[str]) -> int:
    """Each input in the other modality; 1 where some were refused."""
    from fedjax_mri import config
    from fedjax_mri.convert import command, discover, translate

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
    from fedjax_mri import config
    from fedjax_mri.convert import discover
    from fedjax_mri.explain import command

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
    from fedjax_mri import config
    from fedjax_mri.data.phantom import Phantom
    from fedjax_mri.data.phantom.grid import save_grid

    if words.sites < 1:
        raise UserError(f"--sites {words.sites}: must be 1 or more")
    settings = config.override(Phantom(), flags, "fedjax-mri phantom")
    save_grid(settings, words.sites, words.seed, words.out)
    print(words.out)


def refuse(flags: Sequence[str]) -> None:
    """Raises UserError when there are flags that a command does not take."""
    if flags:
        raise UserError(f"unknown argument {flags[0]}; see --help")


class Bar:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, unit: str = "round") -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit=unit, dynamic_ncols=True) if sys.stderr.isatty() else None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, line: str) -> None:
        """A line that the bar does not overwrite."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def step(self) -> None:
        """One unit is done."""
        if self._bar is not None:
            self._bar.update()

    def watch(self, progress: Any) -> None:
        """After each segment."""
        shown = headline(progress.figures, progress.headline)
        words = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        if self._bar is None:
            print(f"round {progress.round}/{progress.rounds}: {words}", flush=True)
        else:
            self._bar.update(progress.round - self._bar.n)
            self._bar.set_postfix_str(words)


def headline(figures: dict[str, float], first: str) -> dict[str, float]:
    """What fits on one line, with the figure `first` of each test set."""
    wanted = {
        "clients_per_second": "clients/s",
        "images_per_second": "images/s",
        "useful_share": "useful",
        "train/nll": "loss",
    }
    chosen = {short: figures[name] for name, short in wanted.items() if name in figures}
    return chosen | {name: value for name, value in figures.items() if name.endswith(f"/{first}")}
