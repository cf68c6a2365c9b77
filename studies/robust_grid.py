"""Which of two robust rules withstands three attacks, by number of attackers and heterogeneity: the grid of ByzFL.

Command: FEDJAX_MRI_FASHION_MNIST=fashion.npz fedjax-mri sweep studies/robust_grid.py
Hardware and time: docs/robustness.md says what was measured. One program for each rule, attack and f trains 12 cells.
Data: Fashion-MNIST, written by `python scripts/fashion_mnist.py fashion.npz`.

The settings are those of the sample configuration of the package byzfl: ten honest clients take one step on 25 examples
a round with momentum .9, f = 1 to 4 attackers send the same, and what is clipped at 2 and mixed goes to the geometric
median or the trimmed mean. There an update is a gradient, here it is that times the learning rate .1, and so are the
bound of the clipping and the smallest distance of the geometric median.
"""

import os
from dataclasses import dataclass

import jax
from flax import nnx

from fedjax_mri.data.arrays import Arrays
from fedjax_mri.data.augment import Augment
from fedjax_mri.data.partition import Similarity
from fedjax_mri.fed.attack.ipm import IPM
from fedjax_mri.fed.attack.optimalalie import OptimalALIE
from fedjax_mri.fed.attack.optimalipm import OptimalIPM
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.sampling import Everyone
from fedjax_mri.fed.uplink.preaggregators.clipping import Clipping
from fedjax_mri.fed.uplink.preaggregators.nnm import NNM
from fedjax_mri.fed.uplink.reductions.geometric_median import GeometricMedian
from fedjax_mri.fed.uplink.reductions.trimmed_mean import TrimmedMean
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.momentum import Momentum
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.conv.folded import conv_max_pool
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers
from fedjax_mri.run.config import Experiment, LocalTraining
from fedjax_mri.study.study import Study
from fedjax_mri.tasks.classify import Classify

HONEST, RATE = 10, 0.1


@dataclass(frozen=True)
class SmallCNN:
    """The network `cnn_mnist` of byzfl: 5 x 5 convolutions of 20 and 50 channels, a dense layer of 500."""

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for images [28, 28, 1]."""
        return functional(lambda layers: TwoConvolutions(image, classes, layers), compute)


class TwoConvolutions(nnx.Module):
    """Two convolutions without padding, each with a 2 x 2 max-pool and ReLU, then two dense layers."""

    def __init__(self, image: tuple[int, ...], classes: int, layers: Layers) -> None:
        self.convs = nnx.List([layers.conv(image[2], 20, 5, padding=0), layers.conv(20, 50, 5, padding=0)])
        self.dense, self.logits = layers.linear(800, 500), layers.linear(500, classes)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """x [B, 28, 28, 1] -> logits [B, classes]."""
        for conv in self.convs:  # bias and ReLU commute with the pool
            x = nnx.relu(conv_max_pool(x, conv.kernel[...], conv.policy) + conv.bias[...].reshape(1, 1, 1, -1))
        return self.logits(nnx.relu(self.dense(x.reshape(x.shape[0], -1))))


def rules(f: int) -> tuple[GeometricMedian, TrimmedMean]:
    """The rules of the grid for f attackers."""
    return GeometricMedian(smooth=0.1 * RATE, steps=3), TrimmedMean(f)


def attacks(f: int) -> tuple[IPM, OptimalIPM, OptimalALIE]:
    """The attacks of the grid by f attackers; the first is called a sign flip there."""
    who = tuple(range(HONEST, HONEST + f))
    return IPM(factor=1.0, clients=who), OptimalIPM(clients=who), OptimalALIE(clients=who)


cells = [
    (rule, (Clipping(2.0 * RATE), NNM(f)), attack, f)
    for f in (1, 2, 3, 4)
    for rule in rules(f)
    for attack in attacks(f)
]

study = Study(
    base=Experiment(
        name="robust rules under attack",
        data=Arrays(os.environ.get("FEDJAX_MRI_FASHION_MNIST", "fashion.npz"), partition=Similarity(HONEST)),
        task=Classify(network=SmallCNN(), augment=Augment(flip=0.5)),
        local=LocalTraining(batch=25, steps=1, optimizer="optax.sgd", learning_rate=RATE, decay=1e-4),
        sampling=Everyone(),
        uplink=UplinkSettings(weight="uniform", stages=(Momentum(0.9),)),
        rounds=800,
        evaluate_every=50,
        plan=Plan(tune_s=0, lanes=1),
    ),
    axes={
        ("uplink.reduce", "uplink.before", "attack", "data.partition.clients_of_one"): cells,
        "data.partition.gamma": [1.0, 0.66, 0.33, 0.0],
        "seed": range(3),
    },
)
