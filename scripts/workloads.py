"""The named workloads on which this engine and other software are timed; needs only NumPy.

Images, initial weights and the order of each client's examples are seeded, so that all programs train on the same
batches from the same initial weights. All data are synthetic: a pattern for each class, with noise.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

QUICKSTART = {"W5": "configs/quickstart.py"}  # timed by its config, so it has no arrays here
SEED = 0


@dataclass(frozen=True, eq=False)
class Workload:
    """FedAvg weighted by examples, every client with the same settings."""

    name: str
    sizes: np.ndarray  # int32 [N], examples per client
    image: tuple[int, int, int]  # H, W in pixels, C
    classes: int
    rate: float  # learning rate: of SGD, or of Adam for the CycleGAN
    model: str
    batch: int = 16  # examples a local step; an epoch's last step may have fewer
    epochs: int = 1  # a client and round
    cohort: int = 0  # clients a round; 0: all
    noise: float = 0.0  # above 0: DP-SGD at each client, with clip 1, this noise multiplier and Poisson batches
    shards: int = 0  # of examples in the order of their labels, dealt out to clients; 0: labels spread alike

    @property
    def images(self) -> int:
        """Examples of all clients together."""
        return int(self.sizes.sum())

    @cached_property
    def offsets(self) -> np.ndarray:
        """Row of each client's first example, int [N]."""
        return np.cumsum(self.sizes) - self.sizes


class ConvLayer(NamedTuple):
    """A convolution padded on each side by half its window."""

    side: int  # pixels of the square image it sees
    inputs: int
    outputs: int
    window: int
    stride: int
    count: int  # how often the network has it

    def flop(self, batch: int) -> float:
        """Floating-point operations of one pass, for `batch` images."""
        result = batch * (self.side // self.stride) ** 2
        return 2.0 * result * self.window**2 * self.inputs * self.outputs

    def __str__(self) -> str:
        what = f"{self.window} x {self.window}, {self.inputs} to {self.outputs}, {self.side} px"
        return f"{what}, stride {self.stride}" if self.stride > 1 else what


RESNET18 = (  # of W6
    ConvLayer(64, 1, 64, 7, 2, 1),
    ConvLayer(16, 64, 64, 3, 1, 4),
    ConvLayer(16, 64, 128, 3, 2, 1),
    ConvLayer(16, 64, 128, 1, 2, 1),
    ConvLayer(8, 128, 128, 3, 1, 3),
    ConvLayer(8, 128, 256, 3, 2, 1),
    ConvLayer(8, 128, 256, 1, 2, 1),
    ConvLayer(4, 256, 256, 3, 1, 3),
    ConvLayer(4, 256, 512, 3, 2, 1),
    ConvLayer(4, 256, 512, 1, 2, 1),
    ConvLayer(2, 512, 512, 3, 1, 3),
)


def equal(clients: int, size: int) -> np.ndarray:
    """Sizes int32 [clients], all alike."""
    return np.full(clients, size, np.int32)


def lognormal(clients: int, sigma: float, low: int, high: int) -> np.ndarray:
    """Sizes int32 [clients], log-normal with mean 64 before they are clipped to low..high."""
    draws = np.random.default_rng(SEED).lognormal(np.log(64) - sigma**2 / 2, sigma, clients)
    return np.clip(np.rint(draws), low, high).astype(np.int32)


SMALL = (32, 32, 1)
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", equal(32, 64), SMALL, 10, 0.05, "cnn"),
        Workload("W2", equal(256, 64), SMALL, 10, 0.05, "cnn"),
        Workload("W3", lognormal(64, 1.0, 16, 512), SMALL, 10, 0.05, "cnn"),
        Workload("W4", lognormal(1_000, 2.0, 4, 20_000), SMALL, 10, 0.05, "cnn"),
        # The stem is torchvision's, 7 x 7 with stride 2 and a max-pool. Every GroupNorm has 8 groups.
        Workload("W6", equal(10, 64), (64, 64, 1), 4, 0.05, "resnet18"),
        Workload("W7", equal(4, 8), (128, 128, 1), 1, 2e-4, "cyclegan", batch=1),
        # This is the published size. A round is one step at each of two clients.
        Workload("W9", equal(2, 1), (256, 256, 1), 1, 2e-4, "cyclegan", batch=1),
        # Training that protects patients, and the same without.
        Workload("W11", equal(2, 4096), SMALL, 10, 0.05, "cnn", batch=64, noise=1.0),
        Workload("W12", equal(2, 4096), SMALL, 10, 0.05, "cnn", batch=64),
        # The model is a dense layer on the pixels. Each client keeps a model of the same size.
        # The settings of BlazeFL's own benchmark, and its network. It has CIFAR-10's shapes and not its images.
        Workload("W10", equal(100, 500), (32, 32, 3), 10, 0.1, "lenet", batch=50, epochs=5, shards=200),
        Workload("W8", equal(100_000, 8), (8, 8, 1), 10, 0.05, "linear", batch=4, cohort=1_000),
    )
}


def arrays(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, H, W, C] and labels int32 [n], in client order."""
    rng = np.random.default_rng((SEED, 1))
    labels = rng.integers(0, workload.classes, workload.images, np.int32)
    if workload.shards:
        dealt = np.random.default_rng((SEED, 4)).permutation(workload.shards)
        labels = np.sort(labels).reshape(workload.shards, -1)[dealt].ravel()
    patterns = rng.integers(0, 128, (workload.classes, *workload.image), np.uint8)
    images = rng.integers(0, 128, (workload.images, *workload.image), np.uint8)
    return np.add(images, patterns[labels], out=images), labels


def pairs(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Images of two modalities uint8 [n, H, W, C] in client order: the second is the first inverted."""
    images = arrays(workload)[0]
    return images, 255 - images


def weights(workload: Workload) -> dict[str, np.ndarray]:
    """Initial float32 weights of the CNN and of LeNet: two convolutions, each with ReLU and a 2 x 2 max-pool, then one
    or three dense layers. Kernels are [h, w, in, out], He normal; the first dense layer takes [H, W, C] flattened."""
    rng = np.random.default_rng((SEED, 2))
    found = {}
    for name, shape in kernel_shapes(workload).items():
        deviation = np.sqrt(2 / np.prod(shape[:-1]))
        found[f"{name}.kernel"] = (deviation * rng.standard_normal(shape)).astype(np.float32)
        found[f"{name}.bias"] = np.zeros(shape[-1], np.float32)
    return found


def kernel_shapes(workload: Workload) -> dict[str, tuple[int, ...]]:
    """Shapes of the kernels by layer: 3 x 3 with padding in the CNN, 5 x 5 without in LeNet (LeCun et al. 1998)."""
    height, width, channels = workload.image
    if workload.model == "cnn":
        features = (height // 4) * (width // 4) * 64
        return {"conv1": (3, 3, channels, 32), "conv2": (3, 3, 32, 64), "dense": (features, workload.classes)}
    if workload.model != "lenet":
        raise ValueError(f"{workload.name} trains {workload.model}; weights are given for the CNN and LeNet alone")
    features = ((height - 4) // 2 - 4) // 2 * (((width - 4) // 2 - 4) // 2) * 16
    convs = {"conv1": (5, 5, channels, 6), "conv2": (5, 5, 6, 16)}
    return {**convs, "dense1": (features, 120), "dense2": (120, 84), "dense3": (84, workload.classes)}


def order(workload: Workload, round: int, client: int) -> np.ndarray:
    """The order in which a client visits its examples in a round, int [size]: a permutation of 0..size-1."""
    return np.random.default_rng((SEED, 3, round, client)).permutation(workload.sizes[client])


def rows(workload: Workload, round: int, client: int) -> np.ndarray:
    """Rows of `arrays` that a client trains on in a round, int [size], `batch` of them in each local step."""
    return order(workload, round, client) + workload.offsets[client]
