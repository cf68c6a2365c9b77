"""The commands of `fedjax-mri`: what is typed is parsed and handed to the package, and its answer is printed."""

import argparse
import os
import pathlib
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedjax_mri.cli import arguments, ending, streams
from fedjax_mri.cli.arguments import refuse_flags
from fedjax_mri.cli.bar import Bar
from fedjax_mri.cli.files import convert, explain, export, phantom, prepare
from fedjax_mri.core.errors import UserError
from fedjax_mri.run import launch

NOTHING_KEPT = "nothing is saved to go on from; the same command starts from the beginning"
FEW_FIGURES = 12  # figures that `evaluate` prints in a line; more get a table


@dataclass(frozen=True)
class Settings:
    """The part of a config that `evaluate` lets flags change."""

    data: Any


def main(given: Sequence[str] | None = None) -> int:
    """Runs a command, and returns its exit code.

    0: done; 1: failed, with one line on stderr that says what to do; 2: not understood; 128 + n: stopped by signal n.
    Where an error was not foreseen, the line names the file with its traceback.
    """
    if given is None:  # a process of its own
        streams.make_lasting()
        ending.end_silently()  # while the libraries are imported, which may turn Ctrl-C into errors of their own
    options, flags = parser().parse_known_args(given)
    try:
        check_seconds(options)
        if launch.wanted(options):
            return launch.run(options, sys.argv[1:] if given is None else given)
        if given is None:
            ending.watch(lambda: kept(options) or NOTHING_KEPT)
        return run_command(options, flags)
    except KeyboardInterrupt as stop:
        number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
        print(f"{number.name}: {kept(options) or NOTHING_KEPT}", file=sys.stderr)
        return give_up(128 + number)
    except Exception as error:
        from fedjax_mri.core import failures

        print(f"error: {failures.one_line(error, folder_of(options), kept(options))}", file=sys.stderr)
        return give_up(1)


def check_seconds(options: argparse.Namespace) -> None:
    """Raises UserError where a flag that is a number of seconds cannot be one."""
    for name, least in (("heartbeat", 1), ("join_timeout", 1), ("wait", 0)):
        value = vars(options).get(name, least)
        if not least <= value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {least} or more seconds")


def folder_of(options: argparse.Namespace) -> pathlib.Path:
    """Returns the folder that a command writes to, be it there or not; of `evaluate`, its first run's."""
    given = vars(options)
    if given.get("out"):
        return given["out"]
    file = given.get("config") or given.get("study")
    return pathlib.Path("runs", file.stem) if file else given.get("run") or (given.get("runs") or [pathlib.Path()])[0]


def kept(options: argparse.Namespace) -> str:
    """Returns what a command that ends now leaves to go on from; an empty string if nothing."""
    if options.command is train:
        return ending.kept(folder_of(options))
    if options.command is sweep and any(folder_of(options).glob("cells/*.json")):
        return "finished cells are kept; the same command trains the others"
    if options.command is serve:
        return "accepted jobs are kept; the same command finishes them"
    return "results written so far are kept" if options.command in (convert, prepare, explain) else ""


def run_command(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Runs the command in this process, and returns its exit code."""
    from fedjax_mri.core.environment import prepare_jax
    from fedjax_mri.run import processes

    prepare_jax()
    ending.end_with_a_line()
    with processes.joined(getattr(options, "heartbeat", 0), getattr(options, "join_timeout", 0)):
        code = options.command(options, flags) or 0
        sys.stdout.flush()  # an output that cannot be written is an error like others
        return code


def give_up(code: int) -> int:
    """Returns the exit code of a command that has failed; one of several processes does not come back from here."""
    processes = sys.modules.get("fedjax_mri.run.processes")  # what is not imported yet has joined no others
    return processes.give_up(code) if processes else code


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    return arguments.parser(
        *(train, evaluate, sweep, report, audit, attack, show, compile, deploy, convert, prepare, explain),
        *(serve, export, doctor, phantom),
    )


def train(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Trains each experiment of a config file in turn, then writes one report for all."""
    from fedjax_mri.run import config, experiment, lock, processes, results

    waiting = lock.Waiting(options.wait, options.take_over)
    variants, out = load_experiments(options.config, flags, options.only), folder_of(options)
    folders = run_folders(variants, out, alone=bool(options.only and options.out))
    for name, one in variants.items():
        print(f"{one.name}: {one.rounds} rounds, config {config.digest(one)}, in {folders[name]}", flush=True)
        with Bar(one.rounds) as bar:
            stopped = experiment.run(one, folders[name], options.resume_from, bar.say, bar.watch, waiting)
        if stopped:
            return 128 + stopped
        if processes.is_main_process():
            print(results.headline(folders[name]), flush=True)
        if one.explanations:
            explain_examples(folders[name], one.explanations)
    if processes.is_main_process():
        from fedjax_mri.report import run as report  # matplotlib, after the run

        print(report.write([results.load(folder) for folder in folders.values()], out / "report.html"))
    return 0


def run_folders(names: Iterable[str], out: pathlib.Path, alone: bool) -> dict[str, pathlib.Path]:
    """Returns the folder of each run: below `out` by its name, or `out` itself for a run without a name.

    A run that is `alone`, as --only and --out say, is in `out` too, unless `out` has runs below it already.
    """
    nested = not alone or any(out.glob("*/config.json"))
    return {name: out / name if name and nested else out for name in names}


def explain_examples(run: pathlib.Path, names: Sequence[str]) -> None:
    """Explains the few test examples that a run has kept, for its report; only where it is one process."""
    import jax

    from fedjax_mri.explain import rounds

    if jax.process_count() > 1:
        print(f"explanations: left out by several processes; fedjax-mri report {run} --methods {','.join(names)}")
        return
    rounds.save(run, names, lambda line: print(line, flush=True))


def load_experiments(path: pathlib.Path, flags: Sequence[str], only: str | None = None) -> dict[str, Any]:
    """Returns the experiments of a config file by name, with the flags applied to each.

    With `only` it is the one of that name.
    """
    from fedjax_mri.run import config

    found = config.load(path)
    if only is not None and only not in found:
        there = ", ".join(found) if any(found) else "one experiment, without a name"
        raise UserError(f"--only {only}: {path} has {there}")
    chosen = found if only is None else {only: found[only]}
    return {name: config.override(one, flags) for name, one in chosen.items()}


def sweep(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Trains the cells of a study that are not finished, and reports it when all are; returns 1 where some failed."""
    from fedjax_mri.report import study as study_report
    from fedjax_mri.run import config, lock
    from fedjax_mri.study import folder, slurm, study, sweep

    found = study.load(options.study)
    found = replace(found, base=config.override(found.base, flags))
    out, part, cells = folder_of(options), sweep.shard(options.shard), study.cells(found)
    if options.slurm is not None:
        folder.refuse_other(out, found, cells)
        of_lock = [*[f"--wait={options.wait}"] * bool(options.wait), *["--take-over"] * options.take_over]
        return slurm.submit(min(options.slurm, len(cells)), options.study, out, [*of_lock, *flags])
    try:
        waiting = lock.Waiting(options.wait, options.take_over)
        failures = sweep.run(found, out, part, lambda line: print(line, flush=True), waiting)
    except sweep.Stopped as stopped:
        return 128 + stopped.signal
    if not failures and len(folder.finished_cells(out)) == len(cells):
        print(study_report.write(out))
    return 1 if failures else 0


def evaluate(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Prints the figures of saved models: a line for each test set, or a table of several models or many figures."""
    from fedjax_mri.run import config, restore
    from fedjax_mri.run.line import named

    columns: dict[str, dict[str, float]] = {}
    for run in options.runs:
        settings = restore.read_model_config(run)
        data = config.override(Settings(settings.data), flags).data if flags else None
        prefix = f"{run.name}, " if len(options.runs) > 1 else ""
        found = restore.evaluate_run(run, data, print, options.best)
        columns |= {prefix + name: named(figures) for name, figures in found.items()}
    if len(options.runs) > 1 or max(map(len, columns.values())) > FEW_FIGURES:
        print(restore.figure_table(columns))
        return
    for name, figures in columns.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))


def report(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Writes report.html of one run, or of all runs in the folder, or of a study."""
    from fedjax_mri.report import run as report
    from fedjax_mri.report import study as study_report
    from fedjax_mri.run import results

    refuse_flags(flags)
    if (options.run / "study.json").exists():
        print(study_report.write(options.run, options.target))
        return
    folders = (
        [options.run]
        if (options.run / "config.json").exists()
        else sorted(p.parent for p in options.run.glob("*/config.json"))
    )
    if not folders:
        raise UserError(f"{options.run}: no run there; give the folder that `train` wrote")
    for folder in folders if options.methods else []:
        explain_examples(folder, options.methods.split(","))
    print(report.write([results.load(folder) for folder in folders], options.run / "report.html"))


def audit(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Writes the figures of each site and group of sites into the run's folder."""
    from fedjax_mri.report import audit_page as audit_report

    refuse_flags(flags)
    for path in audit_report.write(options.run, options.leave_one_out, options.rounds, print):
        print(path)


def attack(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Prints what attackers get from a run, and writes attack.json and attack.html into its folder."""
    from fedjax_mri.attack import command

    refuse_flags(flags)
    numbers = {name: vars(options)[name] for name in ("shadows", "rounds", "trials", "cohort", "steps", "newest")}
    both = options.membership == options.inversion
    choices = command.Choices(
        both or options.membership, both or options.inversion, batches=tuple(options.batches), **numbers
    )
    table, path = command.attack(options.run, choices, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{table}\n\n{path}")


def show(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Prints every field of a config, and what its training will cost here or on another machine."""
    from fedjax_mri.compile import machines, targets
    from fedjax_mri.core import devices
    from fedjax_mri.run import config, costs

    there = devices.current() if options.machine is None else targets.described_devices(machines.parse(options.machine))
    with devices.compiling_for(there):
        for name, one in load_experiments(options.config, flags, options.only).items():
            print(f"# {name or one.name}, config {config.digest(one)}")
            for field, value in {**config.flat(one), **costs.costs(one)}.items():
                print(f"{field:32} {value}")


def compile(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Compiles a config for a machine that need not be here, and prints what each plan needs and would take."""
    from fedjax_mri.compile import command, machines
    from fedjax_mri.core import disk

    machine = machines.parse(options.machine)
    choices = command.Choices(options.lanes, options.conv, options.precision, [each == "yes" for each in options.remat])
    path = options.out or pathlib.Path(f"{options.config.stem}-{machine.accelerator.name}-{machine.size}.json")
    if path.is_dir() or not os.access(path.parent, os.W_OK):  # compiling takes minutes
        raise UserError(f"--out {path}: cannot be written; name a file in a folder that is there and can be written")
    experiments = []
    for name, one in load_experiments(options.config, flags, options.only).items():
        found = command.estimate_plans(one, machine, choices, lambda line: print(line, file=sys.stderr, flush=True))
        print(f"# {name or one.name} on {machine.name}\n{command.table(found)}", flush=True)
        print("\n".join(command.lines(found)))
        experiments.append(command.to_json(found, name or one.name))
        disk.write_json(path, {**command.ABOUT, "machine": machine.name, "experiments": experiments})
    print(f"all figures: {path}")


def deploy(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Writes what the server and each hospital start to train a config between machines."""
    from fedjax_mri.deploy import command

    out = options.out or pathlib.Path("deploy", options.config.stem)
    try:
        found = load_experiments(options.config, flags, options.only)
        experiments = {name or options.config.stem: one for name, one in found.items()}
        command.deploy(experiments, options.site, out, print)
    except UserError as error:
        *more, last = str(error).splitlines()
        for line in more:  # a line for each mistake
            print(f"error: {line}", file=sys.stderr)
        raise UserError(last) from None


def doctor(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Prints what a report of a fault needs; returns 1 where the self-test fails, else 0."""
    from fedjax_mri.run import doctor

    refuse_flags(flags)
    for name, value in doctor.facts():
        print(f"{name:20} {value}", flush=True)
    wrong = doctor.self_test()
    print(f"{'self-test':20} {wrong or 'passed'}")
    return 1 if wrong else 0


def serve(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Serves a web page with these runs, or adds a user to a file of users."""
    from fedjax_mri.cli import serving

    serving.serve(options, flags)
