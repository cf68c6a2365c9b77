"""The classifier of volumes: the encoder of `volume.py`, the mean over positions, and the head of all classifiers."""

from dataclasses import dataclass, field

import jax
from flax import nnx

from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.head import Head, HeadSettings
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.volume import VolumeEncoder


@dataclass(frozen=True)
class VolumeCNNSettings:
    """A small three-dimensional network for volumes of any size."""

    encoder: VolumeEncoder = field(default_factory=VolumeEncoder)
    head: HeadSettings = field(default_factory=HeadSettings)

    def build(self, image: tuple[int, ...], classes: int, compute: Compute) -> Net:
        """Returns the network for volumes [D, H, W, C].

        Raises UserError on settings or volumes that it cannot be built for.
        """
        self.encoder.check(image, "network.encoder")
        return functional(lambda layers: VolumeCNN(image[-1], classes, self, layers), compute)


class VolumeCNN(nnx.Module):
    """Features of the encoder, averaged over slices, rows and columns; then logits."""

    def __init__(self, channels: int, classes: int, settings: VolumeCNNSettings, layers: Layers) -> None:
        self.encoder = settings.encoder.module(channels, layers)
        self.logits = Head(settings.encoder.features, classes, settings.head, layers)

    def __call__(self, x: jax.Array, present: jax.Array, train: bool, key: jax.Array | None = None) -> jax.Array:
        """Maps x [B, D, H, W, C] to logits [B, classes]."""
        return self.logits(self.encoder(x, present, train).mean((1, 2, 3)), present, train, key)
