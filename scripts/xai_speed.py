"""Times each explanation of W1's CNN here and in captum or pytorch-grad-cam, and prints a table.

    python scripts/xai_speed.py --images 1000 --install

Weights, images, CPU and settings are the same: numbers of steps, samples, squares and superpixels of a grid, a baseline
of zeros, LRP-epsilon. `.peers/captum` is the environment of the two libraries.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

sys.path.append(str(pathlib.Path(__file__).parents[1]))
sys.path.append(str(pathlib.Path(__file__).parent / "peers"))

import common
import jax
import jax.numpy as jnp
import numpy as np
import workloads
from compare import HOME, install, missing

from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.nets.cnn import CNNSettings
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.xai.method import compiled
from fedjax_mri.xai.methods import METHODS

ALIKE: dict[str, dict[str, Any]] = {
    "occlusion": {"baseline": "zero"},
    "kernelshap": {"parts": "grid", "baseline": "zero"},
    "shapley": {"parts": "grid", "baseline": "zero"},
    "lrp": {"rule": "epsilon", "epsilon": 1e-6},
}
Line = dict[str, Any]


def main() -> None:
    chosen = parser().parse_args()
    reason = install("captum") if chosen.install else missing("captum")
    with tempfile.TemporaryDirectory() as folder:
        theirs = {} if reason else peer(chosen, pathlib.Path(folder))
        mine = {name: measured(name, chosen.images, chosen.chunk) for name in chosen.methods}
        print(table(mine, theirs, pathlib.Path(folder)))
    if reason:
        print(f"captum: {reason}")


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--images", type=int, default=1_000)
    words.add_argument("--chunk", type=int, default=100, help="images explained at once, there and here")
    words.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    words.add_argument("--install", action="store_true", help="first make the peer's environment")
    return words


def peer(chosen: argparse.Namespace, folder: pathlib.Path) -> dict[str, Line]:
    """Method -> its line; what was written before a failure counts."""
    script, python = HOME / "scripts/peers/captum/run.py", HOME / ".peers/captum/bin/python"
    sizes = ["--images", str(chosen.images), "--chunk", str(chosen.chunk), "--maps", str(folder)]
    done = subprocess.run([python, script, *sizes, "--methods", *chosen.methods], stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["method"]: line for line in lines}


def measured(name: str, images: int, chunk: int) -> Line:
    """Seconds of the first chunk, compiler included, of all chunks after that, and maps [n, H, W]."""
    explain = compiled(replace(METHODS[name], **ALIKE.get(name, {})).build(), scores)
    x, target = (array[:images] for array in common.inputs(workloads.WORKLOADS["W1"]))
    params, key = model(), jax.random.key(0)
    starts = range(0, len(x), chunk)
    chunks = [(jnp.asarray(x[i : i + chunk]), jnp.asarray(target[i : i + chunk])) for i in starts]
    start = time.perf_counter()
    for shape in {x.shape: (x, target) for x, target in chunks}.values():
        explain(params, *shape, key).block_until_ready()
    middle = time.perf_counter()
    maps = np.concatenate([np.asarray(explain(params, *each, key)) for each in chunks])
    return {"first_s": middle - start, "seconds": time.perf_counter() - middle, "maps": maps}


def scores(params: Any, x: jax.Array) -> jax.Array:
    workload = workloads.WORKLOADS["W1"]
    net = CNNSettings((32, 64), norm="none").build(workload.image, workload.classes, Compute(Plan().resolve().conv))
    return net.apply(params, {}, x, jnp.ones(len(x)), False)[0]


def model() -> Any:
    given = workloads.weights(workloads.WORKLOADS["W1"])
    layers = [{kind: given[f"{name}.{kind}"] for kind in ("kernel", "bias")} for name in ("conv1", "conv2", "dense")]
    return jax.tree.map(jnp.asarray, {"convs": dict(enumerate(layers[:2])), "logits": layers[2]})


def table(mine: dict[str, Line], theirs: dict[str, Line], folder: pathlib.Path) -> str:
    """A row for each method; agreement is the correlation of all maps' values."""
    rows = ["| method | here, s | theirs, s | ratio | first chunk here, s | agreement |", "|---|---|---|---|---|---|"]
    for name, line in mine.items():
        other = theirs.get(name)
        start = f"| {name} | {line['seconds']:.3g} |"
        if other is None:
            rows.append(f"{start} | | {line['first_s']:.3g} | |")
            continue
        both = np.corrcoef(line["maps"].ravel(), np.load(folder / f"{name}.npy").ravel())[0, 1]
        ratio = other["seconds"] / line["seconds"]
        rows.append(f"{start} {other['seconds']:.3g} | {ratio:.2f} | {line['first_s']:.3g} | {both:.3f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
