"""Compiles every config of configs/ for eight H200 and eight TPU v5e, and prints a table. Nothing is run.

    python scripts/compile_configs.py --raw compiled.jsonl
    python scripts/compile_configs.py --raw compiled.jsonl --only quickstart classifiers/vgg16

It needs the extras aot-cuda and aot-tpu. Each experiment is compiled under the plan that the rules choose, for one
device where the config asks for one. Configs that
read files get random images of the same form, as a program depends on shapes alone. Lines are added to the file of
--raw as they are found; what it holds already is not compiled again. Where the compiler refuses a config, its first
line is written instead.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np
from PIL import Image
from scaling_table import COLUMNS, KINDS, ROOT, Line, assembled, cells, compiled, markdown

from fedjax_mri.compile import machines
from fedjax_mri.core import environment
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.arrays import Arrays
from fedjax_mri.run import config
from fedjax_mri.run.config import Experiment

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
SITES = ("--data.sites", "partition")
FILES = {  # config -> flags for the files of `write_images`
    "brain_tumor_centralised": ("--data.source.root", "classes"),
    "brain_tumor_federated": ("--data.root", "classes"),
    "brain_tumor_mri": ("--data.root", "classes"),
    "class_folders": ("--data.root", "classes/Training", *SITES),
    "cyclegan_pairs": ("--data.source.root", "pairs"),
    "fusion_table": ("--data.table", "pairs.csv", "--task.window", "None"),
    "image_table": ("--data.table", "labels.csv"),
    "unpaired_folders": ("--data.root", "modalities", *SITES, "--task.window", "None"),
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--raw", type=pathlib.Path, required=True, help="file of lines, which is read and added to")
    words.add_argument(
        "--only", nargs="*", default=None, help="CONFIG or CONFIG/EXPERIMENT; without a name the table alone is printed"
    )
    words.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="kinds of device")
    given = words.parse_args()
    environment.prefer_cpu_without_devices()
    raw = given.raw.absolute()
    raw.touch()
    lines = {(line["workload"], line["kind"]): line for line in map(json.loads, raw.read_text("utf-8").splitlines())}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_images(pathlib.Path())
        for name, experiment in experiments(given.only):
            for kind in given.kinds:
                if (name, kind) not in lines:
                    print(f"compiling {name} for {kind}", file=sys.stderr, flush=True)
                    line = lines[name, kind] = tried(name, experiment, kind)
                    with raw.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
    print(table(list(lines.values())))


def write_images(folder: pathlib.Path) -> None:
    """Writes random images as class folders, as pairs and as folders of CT and MR, in one .npz file and in tables."""
    random = np.random.default_rng(0)

    def write(path: str) -> str:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (96, 96), np.uint8)).save(folder / path)
        return path

    labels, pairs = ["path,label"], ["ct,mr,label"]
    for label, number in itertools.product(CLASSES, range(40)):
        write(f"classes/Testing/{label}/test{number}.png")
        labels.append(f"{write(f'classes/Training/{label}/train{number}.png')},{label}")
        ct, mr = (write(f"pairs/{modality}/{label}_{number}.png") for modality in ("CT", "MRI"))
        pairs.append(f"{ct},{mr},{label}")
        write(f"modalities/ct/{label}{number}/slice.png")
        write(f"modalities/mr/{label}{number}/slice.png")
    (folder / "labels.csv").write_text("\n".join(labels), encoding="utf-8")
    (folder / "pairs.csv").write_text("\n".join(pairs), encoding="utf-8")
    images = random.integers(0, 255, (160, 64, 64, 3), np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(160) % 4)


def experiments(only: list[str] | None) -> Iterator[tuple[str, Experiment]]:
    """Yields the name and the settings of each experiment: CONFIG, or CONFIG/EXPERIMENT where a file has several.

    Raises UserError where `only` names a config that is not there.
    """
    known = {path.stem for path in (ROOT / "configs").glob("*.py")}
    for name in only or ():
        if name.partition("/")[0] not in known:
            raise UserError(f"--only {name}: no such config; there are {', '.join(sorted(known))}")
    for path in sorted((ROOT / "configs").glob("*.py")):
        for name, settings in config.load(path).items():
            full = f"{path.stem}/{name}" if name else path.stem
            if only is None or path.stem in only or full in only:
                flags = ("--data.root", "classes") if name.endswith("_slices") else FILES.get(path.stem, ())
                data = Arrays("images.npz") if path.stem in ("arrays", "tfds") else settings.data
                yield full, config.override(replace(settings, data=data), flags)


def tried(name: str, settings: Experiment, kind: str) -> Line:
    """Returns what is found of an experiment compiled for eight devices, or as many as its plan asks for.

    Where the compiler refuses it, that is the compiler's first line.
    """
    build, open_plan = assembled(settings)
    try:
        return compiled(name, build, open_plan, machines.parse(f"{kind}:{open_plan.devices or 8}"))
    except jax.errors.JaxRuntimeError as refusal:
        return {"workload": name, "kind": kind, "refused": str(refusal).splitlines()[0]}


def table(lines: list[Line]) -> str:
    """Returns a row for each experiment and kind of device."""
    rows = []
    for line in sorted(lines, key=lambda line: (line["workload"], line["kind"])):
        if "refused" in line:
            rows.append([line["workload"], line["kind"], f"refused: {line['refused']}", "", "", "", ""])
        else:
            rows.append([*cells(line), f"{line['compile_s']:.0f}"])
    return markdown(["config", *COLUMNS, "compiling, s"], rows)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
