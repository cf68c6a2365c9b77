"""Times this engine and other software on the same workloads, and writes the table of docs/performance.md.

    python scripts/compare.py --install --workloads W1 W2 W3

Each measurement runs alone in its own process, and each peer in its own environment under .peers/. Repeats are
interleaved, so that changes of the machine's speed affect all programs alike.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
from statistics import median
from typing import Any

HOME = pathlib.Path(__file__).parents[1]
OURS = "fedjax_mri"
CORES = os.cpu_count() or 1
SEVERAL = ("--processes", str(CORES))
PEERS: dict[str, tuple[str, tuple[str, ...]]] = {  # name in the table -> folder, arguments
    "pytorch": ("pytorch", ()),
    f"pytorch x {CORES}": ("pytorch", SEVERAL),
    "pytorch vmap": ("pytorch_vmap", ()),
    "pfl": ("pfl", ()),
    f"pfl x {CORES}": ("pfl", SEVERAL),
    "flower": ("flower", ()),
    "fedjax": ("fedjax", ()),
    "blazefl": ("blazefl", ()),
    "opacus": ("opacus", ()),
    f"opacus x {CORES}": ("opacus", SEVERAL),
}
# Interpreters of peers that this one is too old for; the first that there is makes the peer's environment.
INTERPRETERS = {"blazefl": ("python3.14t", "python3.14", "python3.13")}
MARKS = "<!-- peers:start -->", "<!-- peers:end -->"
HEADING = """# Performance

This page compares the seconds a round of the same federated training takes here and in other software. The workloads
are defined in `scripts/workloads.py`, the other programs (peers) in `scripts/peers/`. All data are synthetic.

"""
TITLES = "runs", "seconds a round", f"times {OURS}", "start and first round, s", "peak MB", "versions, plan"
Line = dict[str, Any]  # what a run printed, or {"failed": reason}
Lines = dict[tuple[str, str], list[Line]]  # (workload, name in the table) -> a line for each repeat


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--workloads", nargs="+", default=["W1", "W2", "W3"])
    words.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    words.add_argument("--rounds", type=int, default=5, help="rounds of each run; the first is reported separately")
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--install", action="store_true", help="first make each peer's environment")
    words.add_argument("--raw", type=pathlib.Path, help="file to add these runs to; the table has all its runs")
    words.add_argument("--page", type=pathlib.Path, default=HOME / "docs" / "performance.md")
    chosen = words.parse_args()
    folders = {PEERS[peer][0]: "" for peer in chosen.peers}
    if chosen.install:
        folders = {folder: install(folder) for folder in folders}
    lines = earlier(chosen.raw) if chosen.raw else {}
    for repeat in range(chosen.repeats):  # the page is complete after each, in case the next is stopped
        print(f"repeat {repeat + 1} of {chosen.repeats}", flush=True)
        measure(chosen, folders, lines)
        write(chosen.page, table(lines) + "\n\n" + circumstances(["python", "scripts/compare.py", *sys.argv[1:]]))


def install(folder: str) -> str:
    """Makes a peer's environment from its requirements. Returns "", or one line that says why it could not be made."""
    place, wanted = HOME / ".peers" / folder, HOME / "scripts" / "peers" / folder / "requirements.txt"
    if not missing(folder):
        return ""
    (place / "ready").unlink(missing_ok=True)
    here = next(filter(None, map(shutil.which, INTERPRETERS.get(folder, (sys.executable,)))), None)
    if here is None:
        return f"not installed: needs one of {', '.join(INTERPRETERS[folder])}"
    for words in (["-m", "venv", place], ["-m", "pip", "install", "-q", "-r", wanted]):
        python = here if words[1] == "venv" else place / "bin" / "python"
        done = subprocess.run([python, *words], capture_output=True, text=True)
        if done.returncode:
            return f"not installed: {last(done.stderr)}"
    (place / "ready").write_text(wanted.read_text(encoding="utf-8"), encoding="utf-8")
    return ""


def missing(folder: str) -> str:
    """Returns why a peer's environment cannot be used, or "" if it can."""
    ready, wanted = HOME / ".peers" / folder / "ready", HOME / "scripts" / "peers" / folder / "requirements.txt"
    if not ready.exists():
        return "not installed: add --install"
    return (
        ""
        if ready.read_text(encoding="utf-8") == wanted.read_text(encoding="utf-8")
        else "requirements have changed: add --install"
    )


def earlier(raw: pathlib.Path) -> Lines:
    """Returns the runs that a file holds."""
    lines: Lines = {}
    for text in raw.read_text(encoding="utf-8").splitlines() if raw.exists() else ():
        line = json.loads(text)
        lines.setdefault((line["workload"], line["peer"]), []).append(line)
    return lines


def measure(chosen: argparse.Namespace, folders: dict[str, str], lines: Lines) -> None:
    """Runs everything once and adds to `lines`; `folders` says which peers could not be installed, and why."""
    for workload in chosen.workloads:
        for name in (OURS, *chosen.peers):
            line = run(name, workload, chosen.rounds, folders)
            lines.setdefault((workload, name), []).append(line)
            print(f"{workload} {name}: {line.get('median_s') or line['failed']}", flush=True)
            if chosen.raw:
                with chosen.raw.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**line, "workload": workload, "peer": name}) + "\n")


def run(name: str, workload: str, rounds: int, folders: dict[str, str]) -> Line:
    """Returns the line of JSON that a run printed, or why there is none."""
    folder, more = PEERS.get(name, ("", ()))
    if folder and (reason := folders[folder] or missing(folder)):
        return {"failed": reason}
    python = HOME / ".peers" / folder / "bin" / "python" if folder else pathlib.Path(sys.executable)
    script = HOME / "scripts" / "peers" / folder / "run.py" if folder else HOME / "scripts" / "benchmark.py"
    command = [python, script, "--workload", workload, "--rounds", str(rounds), *more]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return read(done.returncode, done.stdout, done.stderr)


def read(code: int, stdout: str, stderr: str) -> Line:
    """Returns the line of JSON that ends `stdout`, or the last message of a run that failed."""
    try:
        line = json.loads(last(stdout))
    except ValueError:
        line = None
    if code == 0 and isinstance(line, dict):
        return line
    return {"failed": f"exit {code}: {last(stderr) or last(stdout)}".replace(f"{HOME}/", "")}


def last(text: str) -> str:
    """Returns the last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def table(lines: Lines) -> str:
    """Returns a table for each workload: medians over repeats, fastest first, and failed runs last with the reason."""
    parts = []
    for workload in dict.fromkeys(workload for workload, _ in lines):
        here = {name: summary(found) for (of, name), found in lines.items() if of == workload}
        ours = here.get(OURS, {}).get("median_s")
        names = sorted(here, key=lambda name: here[name].get("median_s", float("inf")))
        rows = [f"| {name} | {row(here[name], ours)} |" for name in names]
        rule = "|---" * (1 + len(TITLES)) + "|"
        parts.append("\n".join([f"**{workload}**", "", f"| | {' | '.join(TITLES)} |", rule, *rows]))
    return "\n\n".join(parts)


def summary(found: list[Line]) -> Line:
    """Medians over the repeats that ran; the last failure where none did."""
    ran = [line for line in found if "failed" not in line]
    if not ran:
        return found[-1]
    first = [line["first_round_s"] + line.get("compile_s", 0.0) for line in ran]
    middle = {key: median(line[key] for line in ran) for key in ("median_s", "peak_mb")}
    more = {"versions": ran[-1]["versions"], "failures": len(found) - len(ran), "runs": len(ran)}
    return {**middle, "first_s": median(first), **more}


def row(line: Line, ours: float | None) -> str:
    """A row's cells after the name; `ours` is this engine's seconds a round, if it ran."""
    if "failed" in line:
        return " | ".join(("-",) * (len(TITLES) - 1) + (line["failed"].replace("|", "\\|"),))
    ratio = f"{line['median_s'] / ours:.2f}" if ours else "-"
    versions = ", ".join(f"{name} {number}" for name, number in line["versions"].items())
    failed = f"; {line['failures']} runs failed" if line["failures"] else ""
    figures = f"{line['runs']} | {line['median_s']:.3g} | {ratio} | {line['first_s']:.3g} | {line['peak_mb']:.0f}"
    return f"{figures} | {versions}{failed}"


def circumstances(command: list[str]) -> str:
    """Returns a line that names the machine, the day and the command."""
    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (
                line.split(":")[1].strip()
                for line in info.read_text(encoding="utf-8").splitlines()
                if "model name" in line
            ),
            cpu,
        )
    return f"{cpu}, {CORES} cores, {datetime.date.today()}. Medians over runs. Command: `{shlex.join(command)}`"


def write(page: pathlib.Path, text: str, marks: tuple[str, str] = MARKS) -> None:
    """Puts `text` between the page's marks and leaves the rest as it is; makes page and marks where missing."""
    start, end = marks
    whole = page.read_text(encoding="utf-8") if page.exists() else HEADING
    if start not in whole or end not in whole:
        whole = whole.rstrip() + f"\n\n{start}\n{end}\n"
    before, rest = whole.split(start, 1)
    page.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
