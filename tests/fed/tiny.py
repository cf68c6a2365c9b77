"""Sources for programs that compile soon: noise on a grey level a class, and patients of a phantom in memory."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import ClientData, Federation, Test
from fedjax_mri.data.phantom import Phantom
from fedjax_mri.data.resident import resident
from fedjax_mri.fed.algorithm import Algorithm
from fedjax_mri.fed.algorithms.fedavg import FedAvg


@dataclass(frozen=True)
class Grey:
    """`clients` hospitals of 4 to 11 examples, other numbers each seed, two classes; it takes no time to build."""

    clients: int = 5
    noise: float = 40.0
    broken: bool = False

    def build(self, seed: int) -> Federation:
        """Raises UserError where it is broken."""
        if self.broken:
            raise UserError("data.broken=True: take False")
        rng = np.random.default_rng(seed)
        parts = [self.draw(rng, int(rng.integers(4, 12))) for _ in range(self.clients + 2)]
        train, test = pack(parts[:-2]), pack(parts[-2:])
        labels = np.stack([np.bincount(part["label"], minlength=2) for part in parts[:-2]]).astype(np.int32)
        tests = {"new sites": Test(test, np.full(2, -1, np.int32))}
        return Federation(train, tests, ("dark", "bright"), labels, synthetic=True)

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        """One hospital's examples."""
        label = rng.integers(0, 2, count).astype(np.int32)
        pixels = rng.normal(110 + 40 * label[:, None, None, None], self.noise, (count, 8, 8, 1))
        return {"image": np.clip(pixels, 0, 255).astype(np.uint8), "label": label}


@dataclass(frozen=True)
class Picky:
    """Its number decides which algorithm it is."""

    number: float = 1.0

    def build(self) -> Algorithm:
        return FedAvg(1.0 if self.number > 1 else 0.5).build()


def pack(parts: list[dict[str, np.ndarray]]):
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}
    ends = np.cumsum([len(part["label"]) for part in parts])
    return resident(arrays, np.split(np.arange(ends[-1]), ends[:-1]))


@dataclass(frozen=True)
class Drawn:
    """Every fourth pixel of a phantom in memory: programs that need not draw patients, and of 16 px, compile soon."""

    source: Phantom

    def build(self, seed: int) -> Federation:
        federation, read = self.source.build(seed), functools.cache(jax.jit)

        def kept(data: ClientData) -> ClientData:
            index = [np.arange(size, dtype=np.int32) for size in data.sizes]
            several = [read(data.read)(data.store, jnp.int32(k), own) for k, own in enumerate(index)]
            arrays = {name: np.concatenate([one[name] for one in several]) for name in several[0]}
            arrays = {name: x[:, ::4, ::4] if x.ndim == 4 else x for name, x in arrays.items()}
            held = resident(arrays, np.split(np.arange(data.sizes.sum()), np.cumsum(data.sizes)[:-1]))
            return data._replace(store=held.store, read=held.read, fetch=held.fetch)

        tests = {name: test._replace(data=kept(test.data)) for name, test in federation.tests.items()}
        return federation._replace(train=kept(federation.train), tests=tests, image=None)
