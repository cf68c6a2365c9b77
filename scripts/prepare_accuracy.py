"""Measures the steps of `fedjax-mri prepare` on heads with known truth, beside other software, and prints tables.

    python scripts/prepare_accuracy.py --first 1000 --cases 100 --peers /tmp/peers/bin/python

Case n is made by seed n. The settings of the steps were chosen on the cases from 0 to 29: `--first 1000` gives others.
`--peers` is a Python that has SimpleITK, brainextractor and nibabel; without it their columns stay empty. Colin27 is
read from the Debian package mricron-data, where it is installed.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time
from functools import cache, partial

import heads
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.phantom.lesions import LesionModel
from fedjax_mri.data.phantom.patient import draw_patient, picture
from fedjax_mri.data.phantom.site import SiteModel
from fedjax_mri.data.prepare import bias, foreground, register, resample, strip

PROTOCOLS = ("t1_spin_echo", "t1_gadolinium", "t2_spin_echo", "flair", "spgr")
TEMPLATES = pathlib.Path("/usr/share/mricron/templates")
SHIFT, TURN = 20.0, 15.0  # mm and degrees, at most along each axis


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / max(found.sum() + truth.sum(), 1))


@cache
def head(number: int) -> heads.Heads:
    """A phantom's head of 32 slices, 128 x 128 px, whose protocol goes by its number."""
    where = heads.draw_site(jax.random.key(number), PROTOCOLS[number % 5])
    return heads.head(jax.random.key(1000 + number), where, 32, 128)


def case(number: int, dimensions: int) -> dict[str, np.ndarray]:
    """A phantom's MR, and its CT moved by a random rigid motion: arrays, spacing, and the motion about the centre."""
    rng = np.random.default_rng(number)
    one = head(number)
    ct, mr, spacing = (np.asarray(x) for x in (one.ct, one.mr, one.spacing))
    if dimensions == 2:
        ct, mr, spacing = ct[8 + number % 12], mr[8 + number % 12], spacing[1:]
    ct = np.clip((ct + 200) / 1200, 0, 1)
    mr = np.clip(mr / np.quantile(mr, 0.995), 0, 1).astype(np.float32)
    matrix = np.eye(dimensions)
    for axis in range(1 if dimensions == 2 else 3):
        turn = np.zeros(1 if dimensions == 2 else 3, np.float32)
        turn[axis] = np.tan(np.deg2rad(rng.uniform(-TURN, TURN)) / 2)
        matrix = matrix @ np.asarray(register.rotation(jnp.asarray(turn)))
    shift, centre = rng.uniform(-SHIFT, SHIFT, dimensions), (np.array(ct.shape) - 1) / 2 * spacing
    back = register.Rigid(
        jnp.asarray(cayley(matrix.T)), jnp.zeros(dimensions), *map(jnp.float32, (centre + shift, centre))
    )
    moving = resample.onto(ct, tuple(spacing), back, ct.shape, tuple(spacing), 0.0)
    return {"mr": mr, "ct": moving, "spacing": spacing, "matrix": matrix, "shift": shift, "centre": centre}


def cayley(matrix: np.ndarray) -> np.ndarray:
    """The `turn` of a rotation matrix."""
    one = np.eye(len(matrix))
    skew = (matrix - one) @ np.linalg.inv(matrix + one)
    return skew[np.triu_indices(len(matrix), 1)].astype(np.float32)


def errors(one: dict[str, np.ndarray], matrix: np.ndarray, centre_lies: np.ndarray) -> tuple[float, float]:
    """How far off the fixed centre was found to lie, in mm, and the turn, in degrees."""
    apart = matrix @ one["matrix"].T
    cosine = (np.trace(apart) - (len(apart) - 2)) / 2
    off = np.linalg.norm(centre_lies - (one["centre"] + one["shift"]))
    return float(off), float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))


def ours(one: dict[str, np.ndarray]) -> tuple[float, float, float]:
    step = jnp.asarray(one["spacing"], jnp.float32)
    start = time.perf_counter()
    found = jax.block_until_ready(register.register(jnp.asarray(one["mr"]), jnp.asarray(one["ct"]), step, step))
    seconds = time.perf_counter() - start
    lies = np.asarray(register.transform_points(found, jnp.asarray(one["centre"], jnp.float32)))
    return (*errors(one, np.asarray(register.rotation(found.turn)), lies), seconds)


def theirs(cases: list[dict[str, np.ndarray]], python: str) -> list[tuple[float, float, float]]:
    """The same cases by SimpleITK: Mattes, 50 bins, a fifth of the voxels (all of a slice), three levels."""
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(cases):
            np.savez(f"{folder}/{number}.npz", **one)
        peer = pathlib.Path(__file__).parent / "peers" / "prepare_peers.py"
        subprocess.run([python, peer, "register", folder, str(len(cases))], check=True)
        found = [np.load(f"{folder}/{number}.out.npz") for number in range(len(cases))]
        return [(*errors(one, got["matrix"], got["lies"]), float(got["seconds"])) for one, got in zip(cases, found)]


def registration(numbers: range, dimensions: int, python: str | None) -> None:
    cases = [case(number, dimensions) for number in numbers]
    ours(cases[0])  # compiles
    lines = {"fedjax_mri": [ours(one) for one in cases]}
    if python:
        lines["SimpleITK"] = theirs(cases, python)
    for name, found in lines.items():
        mm, degrees, seconds = np.array(found).T
        within = int(((mm < 1) & (degrees < 1)).sum())
        both = [f"{at(mm):.2f} mm, {at(degrees):.2f} deg" for at in (np.median, partial(np.percentile, q=95), np.max)]
        print(
            f"| {dimensions}D, {name} | {within} of {len(cases)} | {' | '.join(both)} | {np.median(seconds):.2f} |",
            flush=True,
        )


def stripping(numbers: range, python: str | None) -> None:
    draw = jax.jit(partial(one_slice, SiteModel(), LesionModel()))
    for modality, find in (("mr", strip.mr_brain), ("ct", strip.ct_brain)):
        found = []
        for number in numbers:
            where = heads.draw_site(jax.random.key(number), PROTOCOLS[number % 5])
            one, step = draw(where, jax.random.key(100 + number)), (float(where.field_of_view) / 128,) * 2
            truth = np.asarray(1 - sum(one["tissue"][..., i] for i in heads.NOT_BRAIN)) > 0.5
            found.append(dice(find(np.asarray(one[modality][..., 0]), step), truth))
        print_dice(f"{len(found)} slices, {modality}", found)
        found = []
        for number in numbers[: max(len(numbers) // 5, 5)]:
            where = heads.draw_site(jax.random.key(1 + number // 5), PROTOCOLS[number % 5], 0.2)
            one = heads.head(jax.random.key(5 + number), where, 32, 128)
            mask = find(np.asarray(getattr(one, modality)), tuple(map(float, one.spacing)))
            found.append(dice(mask, np.asarray(one.brain) > 0.5))
        print_dice(f"{len(found)} volumes, {modality}", found)
    if (TEMPLATES / "ch2.nii.gz").exists():
        colin(python)


def print_dice(heading: str, found: list[float]) -> None:
    print(f"| {heading} | {np.mean(found):.3f} | {np.median(found):.3f} | {np.min(found):.3f} |", flush=True)


def one_slice(sites, lesions, where, key):
    return picture(sites, lesions, 128, where, draw_patient(sites, lesions, where, key))


def colin(python: str | None) -> None:
    import nibabel

    image, truth = (
        np.asarray(nibabel.load(TEMPLATES / name).dataobj, np.float32)  # type: ignore[attr-defined]
        for name in ("ch2.nii.gz", "ch2bet.nii.gz")
    )
    image, truth = (np.ascontiguousarray(x.transpose(2, 1, 0)[:, ::-1]) for x in (image, truth > 0))
    strip.mr_brain(image, (1.0, 1.0, 1.0))  # compiles
    start = time.perf_counter()
    found = dice(strip.mr_brain(image, (1.0, 1.0, 1.0)), truth)
    print(f"| Colin27, fedjax_mri | {found:.3f} | {time.perf_counter() - start:.1f} s |", flush=True)
    if python:
        peer = pathlib.Path(__file__).parent / "peers" / "prepare_peers.py"
        subprocess.run([python, peer, "strip", str(TEMPLATES)], check=True)


def fields(numbers: range) -> None:
    for dimensions in (3, 2):
        found = []
        for number in numbers:
            where = heads.draw_site(jax.random.key(number), PROTOCOLS[number % 5], 0.4)
            one = heads.head(jax.random.key(50 + number), where, 32, 128)
            mr, field, brain = (np.asarray(x) for x in (one.mr, one.field, one.brain))
            if dimensions == 2:
                mr, field, brain = mr[16], field[16], brain[16]
            got, brain = bias.correct_bias(mr, foreground.head(mr))[1], brain > 0.5
            left = np.std(np.log(field[brain]) - np.log(got[brain])) / np.std(np.log(field[brain]))
            found.append(1 - left)
        each = [f"{np.mean(found[i::5]):.2f}" for i in range(5)]
        print(f"| {dimensions}D | {np.median(found):.2f} | {' | '.join(each)} |", flush=True)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--first", type=int, default=0, help="number of the first case")
    words.add_argument("--cases", type=int, default=100)
    words.add_argument("--dimensions", type=int, nargs="+", default=[3, 2], help="of the cases to register")
    words.add_argument("--peers", help="a Python with SimpleITK, brainextractor and nibabel")
    words.add_argument("--parts", nargs="+", default=["register", "strip", "bias"])
    chosen = words.parse_args()
    numbers = range(chosen.first, chosen.first + chosen.cases)
    if "register" in chosen.parts:
        for dimensions in chosen.dimensions:
            registration(numbers, dimensions, chosen.peers)
    if "strip" in chosen.parts:
        stripping(numbers, chosen.peers)
    if "bias" in chosen.parts:
        fields(numbers[:20])


if __name__ == "__main__":
    sys.exit(main())
