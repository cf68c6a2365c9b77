"""Compares every robust rule and pre-aggregator that the package byzfl has with it, on random updates.

    pip install byzfl
    python scripts/byzfl_agreement.py

Prints a table of the largest relative differences over the draws. byzfl computes in float64 here, this package in
float32. Krum and Multi-Krum sum n - f - 2 distances here, as their paper does, and n - f - 1 there: they are compared
for f - 1 here. SMEA and CAF take one power step from a random vector there: they are compared on updates whose faulty
rows lie far away in one direction, where a step is enough.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import byzfl  # type: ignore[import-not-found]
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.fed.uplink.contract import RoundContext, Update
from fedjax_mri.fed.uplink.preaggregators.arc import ARC
from fedjax_mri.fed.uplink.preaggregators.clipping import Clipping
from fedjax_mri.fed.uplink.preaggregators.nnm import NNM
from fedjax_mri.fed.uplink.reductions.caf import CAF
from fedjax_mri.fed.uplink.reductions.centred_clipping import CentredClipping
from fedjax_mri.fed.uplink.reductions.geometric_median import GeometricMedian
from fedjax_mri.fed.uplink.reductions.krum import MultiKrum
from fedjax_mri.fed.uplink.reductions.mda import MDA
from fedjax_mri.fed.uplink.reductions.meamed import MeaMed
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.reductions.monna import MoNNA
from fedjax_mri.fed.uplink.reductions.smea import SMEA
from fedjax_mri.fed.uplink.reductions.trimmed_mean import TrimmedMean
from fedjax_mri.fed.uplink.settings import UplinkSettings

N, WIDTH, F = 11, 1000, 2


class Pair(NamedTuple):
    """A rule of both packages."""

    ours: UplinkSettings
    theirs: list[Any]  # pre-aggregators, then the rule
    far: bool = False  # whether faulty rows lie far away in one direction


def pairs() -> dict[str, Pair]:
    """Returns all that are compared, by name."""
    trimmed, theirs = TrimmedMean(F), byzfl.TrMean(F)
    centred = byzfl.CenteredClipping(None, 3, 20.0)
    several = Pair(UplinkSettings(before=(Clipping(30.0), NNM(F), ARC(F)), reduce=trimmed),
                   [byzfl.Clipping(30.0), byzfl.NNM(F), byzfl.ARC(F), theirs])  # fmt: skip
    return {
        "median": Pair(UplinkSettings(reduce=Median()), [byzfl.Median()]),
        "trimmed mean": Pair(UplinkSettings(reduce=trimmed), [theirs]),
        "geometric median": Pair(UplinkSettings(reduce=GeometricMedian(0.1, 3)), [byzfl.GeometricMedian(0.1, 3)]),
        "Krum": Pair(UplinkSettings(reduce=MultiKrum(F - 1, 1)), [byzfl.Krum(F)]),
        "Multi-Krum": Pair(UplinkSettings(reduce=MultiKrum(F - 1, N - F)), [byzfl.MultiKrum(F)]),
        "centred clipping": Pair(UplinkSettings(reduce=CentredClipping(20.0, 3)), [centred]),
        "MDA": Pair(UplinkSettings(reduce=MDA(F)), [byzfl.MDA(F)]),
        "MoNNA": Pair(UplinkSettings(reduce=MoNNA(F, 3)), [byzfl.MoNNA(F, 3)]),
        "MeaMed": Pair(UplinkSettings(reduce=MeaMed(F)), [byzfl.Meamed(F)]),
        "CAF": Pair(UplinkSettings(reduce=CAF(F)), [byzfl.CAF(F)], far=True),
        "SMEA": Pair(UplinkSettings(reduce=SMEA(F)), [byzfl.SMEA(F)], far=True),
        "mixing, trimmed mean": Pair(UplinkSettings(before=(NNM(F),), reduce=trimmed), [byzfl.NNM(F), theirs]),
        "clipping, trimmed mean": Pair(
            UplinkSettings(before=(Clipping(30.0),), reduce=trimmed), [byzfl.Clipping(30.0), theirs]
        ),
        "ARC, trimmed mean": Pair(UplinkSettings(before=(ARC(F),), reduce=trimmed), [byzfl.ARC(F), theirs]),
        "clipping, mixing, ARC, trimmed mean": several,
    }  # fmt: skip


def finisher(settings: UplinkSettings) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the rule of these settings as a function of rows [N, WIDTH]."""
    reduce = settings.build().reduce
    one = Update(jnp.zeros(WIDTH), (), jnp.float32(0))
    at = RoundContext(jnp.int32(0), jax.random.key(0), jnp.float32(N), jnp.float32(N))

    @jax.jit
    def finish(rows: jax.Array) -> jax.Array:
        total = reduce.add(reduce.zero(one, N), Update(rows, (), jnp.ones(N)), jnp.arange(N, dtype=jnp.int32))
        found: jax.Array = reduce.finish(total, reduce.init(one), at)[0].delta
        return found

    return lambda rows: np.asarray(finish(jnp.asarray(rows, jnp.float32)), np.float64)


def draw(seed: int, far: bool) -> np.ndarray:
    """Returns rows [N, WIDTH], of which the last F are long, or far away in one direction."""
    rng = np.random.default_rng(seed)
    rows = 0.3 + rng.normal(size=(N, WIDTH))
    if far:
        rows[-F:] += np.linspace(1e4, 2e4, F)[:, None] * rng.normal(size=WIDTH)
    else:
        rows[-F:] *= 3
    return rows.astype(np.float32).astype(np.float64)


def difference(pair: Pair, draws: int) -> float:
    """Returns the largest difference of the two results, relative to the norm of byzfl's."""
    ours, largest = finisher(pair.ours), 0.0
    for seed in range(draws):
        rows = draw(seed, pair.far)
        theirs: Any = rows.copy()
        for part in pair.theirs:
            theirs = part(theirs)
        if isinstance(pair.theirs[-1], byzfl.CenteredClipping):
            pair.theirs[-1].m = None  # it remembers the draw before
        largest = max(largest, float(np.linalg.norm(ours(rows) - theirs) / np.linalg.norm(theirs)))
    return largest


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    print("| rule | largest relative difference |\n|---|---|")
    for name, pair in pairs().items():
        print(f"| {name} | {difference(pair, options.draws):.1e} |", flush=True)


if __name__ == "__main__":
    main()
