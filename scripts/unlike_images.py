"""Measures how well `explain` tells images that are unlike those of a run: a table of images of other kinds.

    python scripts/unlike_images.py split ROOT OUT
    fedjax-mri train configs/brain_tumor_federated.py --data.root OUT/kept --out RUN
    python scripts/unlike_images.py table RUN OUT/left_out CT

The first command leaves out 12 % of the slices below ROOT, so that the run never sees them; no group of duplicates is
on both sides. The last one draws images of each kind, reads them as `explain` does and prints a Markdown table: the
area under the ROC curve of the p value against the slices left out, the share that is called unlike, and the share that
is for review for any reason. CT is a folder of PNG files of another modality.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import rankdata

from fedjax_mri.core import environment
from fedjax_mri.core.errors import UserError
from fedjax_mri.data import layout
from fedjax_mri.data.files import raster
from fedjax_mri.data.layout import Splits
from fedjax_mri.data.partition import holdout
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.scans import ReadSettings, load_images
from fedjax_mri.explain import command, inputs, out_of_distribution, triage
from fedjax_mri.explain.command import Job
from fedjax_mri.explain.triage import Verdict

LEFT_OUT = 0.12  # share of the slices
SIDES = (64, 240, 512, 1024)  # px of drawn images
NOISE_SIDES = (32, 64, 256, 1024, 4000)
OWN = "slices left out of training"


def main() -> None:
    """Splits a folder of slices, or prints the table of a run."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = flags.add_subparsers(required=True)
    one = commands.add_parser("split")
    one.add_argument("root", type=pathlib.Path)
    one.add_argument("out", type=pathlib.Path)
    one.set_defaults(act=lambda words: split(words.root, words.out))
    other = commands.add_parser("table")
    other.add_argument("run", type=pathlib.Path)
    other.add_argument("slices", type=pathlib.Path)
    other.add_argument("ct", type=pathlib.Path)
    other.add_argument("--count", type=int, default=100, help="drawn images of each kind")
    other.set_defaults(act=lambda words: print(table(words.run, words.slices, words.ct, words.count)))
    words = flags.parse_args()
    environment.prepare_jax()
    try:
        words.act(words)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def split(root: pathlib.Path, out: pathlib.Path) -> None:
    """Fills OUT/kept and OUT/left_out with links to the slices below a root."""
    found, _ = layout.find(str(root), "split/class", Splits("Training", "Testing"))
    read = load_images(list(found), 64, 1, ReadSettings(), {path: path for path in found})
    files = [read.files[source][0] for source in read.images.source]
    names = [found[file].label for file in files]
    labels = np.unique(names, return_inverse=True)[1]
    sides = holdout(labels, read.images.groups(), LEFT_OUT, np.random.default_rng(0))
    for name, chosen in zip(("kept", "left_out"), sides):
        for file in (files[place] for place in chosen):
            link = out / name / file.absolute().relative_to(root.expanduser().absolute())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        print(f"{out / name}: {len(chosen)} slices")


def table(run: pathlib.Path, slices: pathlib.Path, ct: pathlib.Path, count: int) -> str:
    """The table of a run, in Markdown. Raises UserError where the run has kept no reference."""
    with tempfile.TemporaryDirectory() as out:
        job = command.prepare([run], ["saliency"], pathlib.Path(out), print)
    if job.ood_reference.reference is None:
        raise UserError(f"{run}: has no reference.npz: train it again with the same config and --out")
    lines = ["| images | number | AUROC | called unlike | for review |", "|---|---|---|---|---|"]
    own = np.zeros(0)
    for name, several in kinds(slices, ct, count).items():
        found = list(verdicts(job, several))
        p = np.array([one.ood.p for one in found])
        own = p if name == OWN else own
        area = "" if name == OWN else f"{auroc(own, p):.3f}"
        called = np.mean(
            [any("unlike" in said or said in out_of_distribution.FAULTS for said in one.reasons) for one in found]
        )
        lines.append(f"| {name} | {len(p)} | {area} | {called:.1%} | {np.mean([bool(v.reasons) for v in found]):.1%} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def auroc(own: np.ndarray, other: np.ndarray) -> float:
    """The chance that an image of another kind has a smaller p value than one of the run's own; ties count half."""
    ranks = rankdata(-np.concatenate([own, other]))[len(own) :]
    return float((ranks.sum() - len(other) * (len(other) + 1) / 2) / len(own) / len(other))


def verdicts(job: Job, several: Iterator[np.ndarray]) -> Iterator[Verdict]:
    """What `explain` says of images, uint8 [H, W], each written to a PNG and read again."""
    with tempfile.TemporaryDirectory() as folder:
        for one in several:
            path = pathlib.Path(folder, "image.png")
            Image.fromarray(one).save(path, compress_level=1)
            image = inputs.image(job.reader, path)[0][None]
            logits = command.preprocess_and_predict(job.trained, image, 1)[1]
            found = out_of_distribution.detect_ood(
                job.ood_reference, image, logits, command.describe(job.trained, image, 1)
            )
            yield from triage.verdicts(logits, job.calibration, found, job.trained.classes)


def kinds(slices: pathlib.Path, ct: pathlib.Path, count: int) -> Mapping[str, Iterator[np.ndarray]]:
    """Images of each kind, first of the run's own."""
    own = sorted(path for path in slices.rglob("*") if path.suffix.lower() in raster.ENDINGS)
    return {
        OWN: map(grey, own),
        "constant, black": repeated(partial(constant, 0, 1), count),
        "constant, white": repeated(partial(constant, 255, 256), count),
        "constant, grey": repeated(partial(constant, 1, 255), count),
        "noise, 32 to 4000 px": repeated(noise, count),
        "noise, strips": repeated(strip, count),
        "stripes": repeated(stripes, count),
        "text": repeated(text, count),
        "CT, real": map(grey, sorted(ct.glob("*.png"))),
        "CT of the phantom, synthetic": iter(phantom("ct", count)),
        "MR of the phantom, synthetic": iter(phantom("mr", count)),
        "inverted": (255 - grey(path) for path in own),
        "half cut off": (half(grey(path), number) for number, path in enumerate(own)),
        "upside down": (grey(path)[::-1] for path in own),
    }


def repeated(draw: Callable[[np.random.Generator], np.ndarray], count: int) -> Iterator[np.ndarray]:
    """As many drawn images."""
    rng = np.random.default_rng(0)
    return (draw(rng) for _ in range(count))


def grey(path: pathlib.Path) -> np.ndarray:
    """The grey values of a picture file, uint8 [H, W]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def constant(low: int, high: int, rng: np.random.Generator) -> np.ndarray:
    """One grey value from `low` to below `high`, in a square."""
    side = rng.choice(SIDES)
    return np.full((side, side), rng.integers(low, high), np.uint8)


def noise(rng: np.random.Generator) -> np.ndarray:
    """Uniform, normal or binary noise in a square of many sizes."""
    shape = (rng.choice(NOISE_SIDES, p=(0.2, 0.25, 0.25, 0.2, 0.1)),) * 2
    normal = rng.normal(rng.integers(40, 200), rng.integers(15, 80), shape)
    binary = 255 * (rng.random(shape) < rng.uniform(0.1, 0.9))
    return np.clip((rng.integers(0, 256, shape), normal, binary)[rng.integers(3)], 0, 255).astype(np.uint8)


def strip(rng: np.random.Generator) -> np.ndarray:
    """Uniform noise, many times as long as wide."""
    shape = int(rng.choice((16, 60, 200))), int(rng.choice((500, 1000, 2000)))
    return rng.integers(0, 256, shape if rng.random() < 0.5 else shape[::-1], np.uint8)


def stripes(rng: np.random.Generator) -> np.ndarray:
    """Stripes, sharp or soft, of any direction and contrast."""
    side, turn = rng.choice(SIDES), rng.uniform(0, np.pi)
    rows, columns = np.mgrid[:side, :side]
    wave = np.sin(2 * np.pi * (columns * np.cos(turn) + rows * np.sin(turn)) * rng.choice((2, 4, 8, 16, 24)) / side)
    wave = np.sign(wave) if rng.random() < 0.5 else wave
    return (127.5 + 127.5 * rng.uniform(0.3, 1) * wave).astype(np.uint8)


def text(rng: np.random.Generator) -> np.ndarray:
    """Lines of letters, dark on white or white on black."""
    side, dark = int(rng.choice(SIDES)), rng.random() < 0.5
    image = Image.new("L", (side, side), 255 if dark else 0)
    size = max(8, side // int(rng.choice((8, 16, 32))))
    letters = list("abcdefghijklmnopqrstuvwxyz      ABC0123456789")
    for row in range(0, side, round(1.2 * size)):
        line = "".join(rng.choice(letters, 200))
        ImageDraw.Draw(image).text((2, row), line, 0 if dark else 255, font=ImageFont.load_default(size))
    return np.asarray(image)


def phantom(modality: str, count: int) -> np.ndarray:
    """Heads of as many synthetic hospitals, uint8 [count, H, W]."""
    data = Phantom(clients=1, test_clients=count, test_patients=1, size=128, image=modality).build(0).tests  # type: ignore[arg-type]
    test = data["unseen sites"].data
    read = jax.jit(lambda client: test.read(test.store, client, np.zeros(1, np.int32))["image"][0, ..., 0])
    return np.stack([np.clip(255 * np.asarray(read(np.int32(client))), 0, 255) for client in range(count)]).astype("u1")


def half(image: np.ndarray, number: int) -> np.ndarray:
    """The upper, lower, left or right half black."""
    image, (height, width) = image.copy(), image.shape
    part = (image[: height // 2], image[height // 2 :], image[:, : width // 2], image[:, width // 2 :])[number % 4]
    part[...] = 0
    return image


if __name__ == "__main__":
    main()
