"""Networks that classify from the CT and the MR of a patient, of which one may be missing (system D).

Each takes ct and mr, images [B, H, W, 1] or volumes [B, D, H, W, 1], and has [B, 2], 1 where a patient has CT or MR. It
gives logits [B, classes] by the name of the output: "fusion", which a site uses; "ct" and "mr", from one branch alone;
and, where clients keep heads of their own, "server", from the shared head in place of theirs. Pixels of a missing image
do not matter, and a patient with neither gets finite logits.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.attention import CrossAttention
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import Layers
from fedjax_mri.nets.resnet import ResNetEncoder

Modality = Literal["ct", "mr"]
MODALITIES: tuple[Modality, ...] = ("ct", "mr")  # in the order of "has"
Outputs = dict[str, jax.Array]  # name -> logits [B, classes]
OWN = "own"  # a client's own head in the paths of parameters


@dataclass(frozen=True)
class Cross:
    """An encoder for each modality, cross-attention from CT to MR, and a head on both (system D, 4.1.1)."""

    ct: Any = field(default_factory=ResNetEncoder)  # or VolumeEncoder
    mr: Any = field(default_factory=ResNetEncoder)
    width: int = 128  # of queries, keys and values
    heads: int = 4  # of the attention
    hidden: int = 128  # units of the feed-forward head
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES

    def build(self, image: tuple[int, ...], classes: int, compute: Compute, client_heads: bool = False) -> Net:
        """Returns the network for images [H, W, 1] or volumes [D, H, W, 1].

        With `client_heads` clients have a head of their own beside the shared one. Raises UserError on settings that
        cannot be built, or not for such images.
        """
        self.ct.check(image, "network.ct")
        self.mr.check(image, "network.mr")
        check_hidden(self.hidden)
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise UserError(f"network.width={self.width}, network.heads={self.heads}: give a multiple of the heads")
        return functional(lambda layers: CrossNet(self, classes, client_heads, layers), compute)


@dataclass(frozen=True)
class Early:
    """One encoder for both modalities as two channels of one image."""

    encoder: Any = field(default_factory=ResNetEncoder)
    hidden: int = 128
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES

    def build(self, image: tuple[int, ...], classes: int, compute: Compute, client_heads: bool = False) -> Net:
        """Returns the network, as `Cross.build` describes it."""
        self.encoder.check(image, "network.encoder")
        check_hidden(self.hidden)
        return functional(lambda layers: EarlyNet(self, classes, client_heads, layers), compute)


@dataclass(frozen=True)
class Late:
    """A network for each modality, and the mean logits of those that a patient has; of one modality, that one alone."""

    modalities: tuple[Modality, ...] = MODALITIES
    encoder: Any = field(default_factory=ResNetEncoder)  # of each
    hidden: int = 128

    def build(self, image: tuple[int, ...], classes: int, compute: Compute, client_heads: bool = False) -> Net:
        """Returns the network, as `Cross.build` describes it.

        Raises UserError on modalities other than ct, mr or both.
        """
        self.encoder.check(image, "network.encoder")
        check_hidden(self.hidden)
        if self.modalities not in (MODALITIES, ("ct",), ("mr",)):
            raise UserError(f"network.modalities={self.modalities}: give ('ct',), ('mr',) or both")
        return functional(lambda layers: LateNet(self, classes, client_heads, layers), compute)


def check_hidden(hidden: int) -> None:
    """Raises UserError where a head would have no hidden unit."""
    if hidden < 1:
        raise UserError(f"network.hidden={hidden}: give 1 unit or more")


class FeedForward(nnx.Module):
    """A head: a dense layer with ReLU on each token, the tokens' mean, logits."""

    def __init__(self, features: int, hidden: int, classes: int, layers: Layers) -> None:
        self.hidden = layers.linear(features, hidden)
        self.logits = layers.linear(hidden, classes)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, T, features] to [B, classes]."""
        return self.logits(nnx.relu(self.hidden(x)).mean(1))


class Heads(nnx.Module):
    """The shared head, and beside it the client's own one where clients have them."""

    def __init__(self, features: int, hidden: int, classes: int, client_heads: bool, layers: Layers) -> None:
        self.shared = FeedForward(features, hidden, classes, layers)
        self.own = FeedForward(features, hidden, classes, layers) if client_heads else None

    def __call__(self, x: jax.Array) -> Outputs:
        """Maps x [B, T, features] to logits "fusion", and "server" where the client has a head of its own."""
        if self.own is None:
            return {"fusion": self.shared(x)}
        return {"fusion": self.own(x), "server": self.shared(x)}


class CrossNet(nnx.Module):
    """Attention from tokens of CT, or a learnt one where CT is missing, to tokens of MR; the heads on both."""

    def __init__(self, settings: Cross, classes: int, client_heads: bool, layers: Layers) -> None:
        ct, mr, width = settings.ct.features, settings.mr.features, settings.width
        self.ct, self.mr = settings.ct.module(1, layers), settings.mr.module(1, layers)
        self.attention = CrossAttention(ct, mr, width, settings.heads, layers)
        self.no_ct, self.no_mr = nnx.Param(jnp.zeros(ct, jnp.float32)), nnx.Param(jnp.zeros(width, jnp.float32))
        self.head = Heads(ct + width, settings.hidden, classes, client_heads, layers)
        self.alone = nnx.Dict(ct=layers.linear(ct, classes), mr=layers.linear(mr, classes))

    def __call__(
        self,
        ct: jax.Array,
        mr: jax.Array,
        has: jax.Array,
        present: jax.Array,
        train: bool,
        key: jax.Array | None = None,
    ) -> Outputs:
        """Maps ct, mr [B, H, W, 1] or [B, D, H, W, 1] and has [B, 2] to the logits of each output."""
        a = self.ct(ct, present_with(present, has[:, 0]), train)
        b = self.mr(mr, present_with(present, has[:, 1]), train)
        grids, (x, y) = (a.shape[1:-1], b.shape[1:-1]), (tokens(a), tokens(b))
        query = tokens_or_learnt(has[:, 0], x, self.no_ct[...])
        mask = jnp.broadcast_to(has[:, 1:] > 0, y.shape[:2])
        answer = tokens_or_learnt(has[:, 1], self.attention(query, y, grids, mask), self.no_mr[...])
        return {
            **self.head(jnp.concatenate([query, answer], -1)),
            "ct": zero_without(self.alone["ct"](x.mean(1)), has[:, 0]),
            "mr": zero_without(self.alone["mr"](y.mean(1)), has[:, 1]),
        }


class EarlyNet(nnx.Module):
    """One encoder of both images, of which a missing one is black."""

    def __init__(self, settings: Early, classes: int, client_heads: bool, layers: Layers) -> None:
        self.encoder = settings.encoder.module(2, layers)
        self.head = Heads(settings.encoder.features, settings.hidden, classes, client_heads, layers)

    def __call__(
        self,
        ct: jax.Array,
        mr: jax.Array,
        has: jax.Array,
        present: jax.Array,
        train: bool,
        key: jax.Array | None = None,
    ) -> Outputs:
        """Takes and returns what `CrossNet` does."""
        both = [zero_without(x, has[:, i]) for i, x in enumerate((ct, mr))]
        return self.head(tokens(self.encoder(jnp.concatenate(both, -1), present, train)))


class LateNet(nnx.Module):
    """A branch for each modality; their logits are averaged."""

    def __init__(self, settings: Late, classes: int, client_heads: bool, layers: Layers) -> None:
        names, encoder = settings.modalities, settings.encoder
        shape = encoder.features, settings.hidden, classes, client_heads
        self.encoders = nnx.Dict({name: encoder.module(1, layers) for name in names})
        self.heads = nnx.Dict({name: Heads(*shape, layers) for name in names})

    def __call__(
        self,
        ct: jax.Array,
        mr: jax.Array,
        has: jax.Array,
        present: jax.Array,
        train: bool,
        key: jax.Array | None = None,
    ) -> Outputs:
        """Takes and returns what `CrossNet` does. A patient without any of the modalities gets logits of 0."""
        given = {"ct": (ct, has[:, 0]), "mr": (mr, has[:, 1])}
        branches = {name: self._branch(name, *given[name], present, train) for name in self.encoders}
        count = sum(given[name][1] for name in branches)
        outputs = next(iter(branches.values()))
        mean = {o: sum(one[o] for one in branches.values()) / jnp.maximum(count, 1.0)[:, None] for o in outputs}
        return {**mean, **{name: one["fusion"] for name, one in branches.items() if len(branches) > 1}}

    def _branch(self, name: str, x: jax.Array, has: jax.Array, present: jax.Array, train: bool) -> Outputs:
        features = tokens(self.encoders[name](x, present_with(present, has), train))
        return {output: zero_without(logits, has) for output, logits in self.heads[name](features).items()}


def tokens(x: jax.Array) -> jax.Array:
    """Returns features [B, ..., C] as a row of tokens [B, T, C], one for each position."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def present_with(present: jax.Array, has: jax.Array) -> jax.Array:
    """Returns `present` [B], 0 for examples that lack a modality by `has` [B], for the modality's BatchNorm.

    Where no example has it, `present` stays as it is.
    """
    both = present * has
    return jnp.where(both.sum() > 0, both, present)


def tokens_or_learnt(has: jax.Array, x: jax.Array, learnt: jax.Array) -> jax.Array:
    """Returns tokens x [B, T, C] where `has` [B] is above 0, and the learnt token [C] for the other examples."""
    return jnp.where(has[:, None, None] > 0, x, learnt[None, None].astype(x.dtype))


def zero_without(x: jax.Array, has: jax.Array) -> jax.Array:
    """Returns x [B, ...] where `has` [B] is above 0, and 0 for the other examples."""
    return jnp.where((has > 0).reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros((), x.dtype))
