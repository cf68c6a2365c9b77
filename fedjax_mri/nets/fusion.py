"""Networks that classify from the CT and the MR of a patient, of which one may be missing (system D).

Each takes ct and mr, images [B, H, W, 1] or volumes [B, D, H, W, 1], and has [B, 2], 1 where CT or MR is there, and
gives logits [B, classes] by the name of the output: "fusion", which is what a site uses; "ct" and "mr", what one
branch says alone; and, where clients keep heads of their own, "server", what the shared head says in place of theirs.
Pixels of what is missing do not matter, and a patient of whom nothing is there gets finite logits.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_mri.core.errors import UserError
from fedjax_mri.nets.attention import CrossAttention
from fedjax_mri.nets.compute import Compute
from fedjax_mri.nets.functional import Net, functional
from fedjax_mri.nets.layers import ConvPolicy
from fedjax_mri.nets.resnet import ResNetEncoder

Modality = Literal["ct", "mr"]
MODALITIES: tuple[Modality, ...] = ("ct", "mr")  # in the order of "has"
Outputs = dict[str, jax.Array]  # name -> logits [B, classes]
OWN = "own"  # names a client's own head in the paths of parameters


@dataclass(frozen=True)
class Cross:
    """An encoder for each; CT asks, MR answers, and both go into the head (system D, 4.1.1)."""

    ct: Any = field(default_factory=ResNetEncoder)  # or VolumeEncoder
    mr: Any = field(default_factory=ResNetEncoder)
    width: int = 128  # of queries, keys and values
    heads: int = 4  # of the attention
    hidden: int = 128  # units of the feed-forward head

    def build(self, image: tuple[int, ...], classes: int, compute: Compute, own: bool = False) -> Net:
        """For images [H, W, 1] or volumes [D, H, W, 1]; `own`: clients have a head each beside the shared one.

        Raises UserError on settings that cannot be built, or not for such images.
        """
        self.ct.check(image, "network.ct")
        self.mr.check(image, "network.mr")
        check_hidden(self.hidden)
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise UserError(f"network.width={self.width}, network.heads={self.heads}: give a multiple of the heads")
        return functional(lambda rngs: CrossNet(self, classes, own, compute.conv, rngs), compute)


@dataclass(frozen=True)
class Early:
    """One encoder for both, as channels of one image."""

    encoder: Any = field(default_factory=ResNetEncoder)
    hidden: int = 128

    def build(self, image: tuple[int, ...], classes: int, compute: Compute, own: bool = False) -> Net:
        """As `Cross`."""
        self.encoder.check(image, "network.encoder")
        check_hidden(self.hidden)
        return functional(lambda rngs: EarlyNet(self, classes, own, compute.conv, rngs), compute)


@dataclass(frozen=True)
class Late:
    """A network for each, and the mean of the logits of those that are there; of one modality: that one alone."""

    modalities: tuple[Modality, ...] = MODALITIES
    encoder: Any = field(default_factory=ResNetEncoder)  # of each
    hidden: int = 128

    def build(self, image: tuple[int, ...], classes: int, compute: Compute, own: bool = False) -> Net:
        """As `Cross`. Raises UserError unless the modalities are one or both of ct and mr."""
        self.encoder.check(image, "network.encoder")
        check_hidden(self.hidden)
        if self.modalities not in (MODALITIES, ("ct",), ("mr",)):
            raise UserError(f"network.modalities={self.modalities}: give ('ct',), ('mr',) or both")
        return functional(lambda rngs: LateNet(self, classes, own, compute.conv, rngs), compute)


def check_hidden(hidden: int) -> None:
    """Raises UserError where a head would have no units."""
    if hidden < 1:
        raise UserError(f"network.hidden={hidden}: give 1 unit or more")


class FeedForward(nnx.Module):
    """The head: a dense layer with ReLU on each token, their mean, logits."""

    def __init__(self, features: int, hidden: int, classes: int, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(features, hidden, rngs=rngs)
        self.logits = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, T, features] -> [B, classes]."""
        return self.logits(nnx.relu(self.hidden(x)).mean(1))


class Heads(nnx.Module):
    """The shared head, and where clients have their own that one as well."""

    def __init__(self, features: int, hidden: int, classes: int, own: bool, rngs: nnx.Rngs) -> None:
        self.shared = FeedForward(features, hidden, classes, rngs)
        self.own = FeedForward(features, hidden, classes, rngs) if own else None

    def __call__(self, x: jax.Array) -> Outputs:
        """x [B, T, features] -> "fusion", and beside a client's own "server"."""
        if self.own is None:
            return {"fusion": self.shared(x)}
        return {"fusion": self.own(x), "server": self.shared(x)}


class CrossNet(nnx.Module):
    """Tokens of CT, or a learnt one where there is none; what each finds in MR, or a learnt answer; the heads."""

    def __init__(self, settings: Cross, classes: int, own: bool, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        ct, mr, width = settings.ct.features, settings.mr.features, settings.width
        self.ct, self.mr = settings.ct.module(1, policy, rngs), settings.mr.module(1, policy, rngs)
        self.attention = CrossAttention(ct, mr, width, settings.heads, rngs)
        self.no_ct, self.no_mr = nnx.Param(jnp.zeros(ct, jnp.float32)), nnx.Param(jnp.zeros(width, jnp.float32))
        self.head = Heads(ct + width, settings.hidden, classes, own, rngs)
        self.alone = nnx.Dict(ct=nnx.Linear(ct, classes, rngs=rngs), mr=nnx.Linear(mr, classes, rngs=rngs))

    def __call__(
        self, ct: jax.Array, mr: jax.Array, has: jax.Array, weight: jax.Array, train: bool, key: jax.Array | None = None
    ) -> Outputs:
        """ct, mr [B, H, W, 1] or [B, D, H, W, 1], has [B, 2], weight [B] -> logits of each output."""
        a, b = self.ct(ct, counted(weight, has[:, 0]), train), self.mr(mr, counted(weight, has[:, 1]), train)
        grids, (x, y) = (a.shape[1:-1], b.shape[1:-1]), (tokens(a), tokens(b))
        query = or_else(has[:, 0], x, self.no_ct[...])
        there = jnp.broadcast_to(has[:, 1:] > 0, y.shape[:2])
        answer = or_else(has[:, 1], self.attention(query, y, grids, there), self.no_mr[...])
        branches = {name: said(self.alone[name](z.mean(1)), has, name) for name, z in (("ct", x), ("mr", y))}
        return {**self.head(jnp.concatenate([query, answer], -1)), **branches}


class EarlyNet(nnx.Module):
    """What is missing is black."""

    def __init__(self, settings: Early, classes: int, own: bool, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        self.encoder = settings.encoder.module(2, policy, rngs)
        self.head = Heads(settings.encoder.features, settings.hidden, classes, own, rngs)

    def __call__(
        self, ct: jax.Array, mr: jax.Array, has: jax.Array, weight: jax.Array, train: bool, key: jax.Array | None = None
    ) -> Outputs:
        """As `CrossNet`."""
        both = [jnp.where(there(has, i, x.ndim), x, jnp.zeros((), x.dtype)) for i, x in enumerate((ct, mr))]
        return self.head(tokens(self.encoder(jnp.concatenate(both, -1), weight, train)))


class LateNet(nnx.Module):
    """Branches that meet in their logits."""

    def __init__(self, settings: Late, classes: int, own: bool, policy: ConvPolicy, rngs: nnx.Rngs) -> None:
        names, features = settings.modalities, settings.encoder.features
        self.encoders = nnx.Dict({name: settings.encoder.module(1, policy, rngs) for name in names})
        self.heads = nnx.Dict({name: Heads(features, settings.hidden, classes, own, rngs) for name in names})

    def __call__(
        self, ct: jax.Array, mr: jax.Array, has: jax.Array, weight: jax.Array, train: bool, key: jax.Array | None = None
    ) -> Outputs:
        """As `CrossNet`. Where none of its modalities is there, logits are 0: any class is as likely."""
        images = {"ct": ct, "mr": mr}
        branches = {name: self._branch(name, images[name], has, weight, train) for name in self.encoders}
        count = sum(has[:, MODALITIES.index(name)] for name in branches)
        outputs = next(iter(branches.values()))
        mean = {o: sum(one[o] for one in branches.values()) / jnp.maximum(count, 1.0)[:, None] for o in outputs}
        return {**mean, **{name: one["fusion"] for name, one in branches.items() if len(branches) > 1}}

    def _branch(self, name: str, x: jax.Array, has: jax.Array, weight: jax.Array, train: bool) -> Outputs:
        features = tokens(self.encoders[name](x, counted(weight, has[:, MODALITIES.index(name)]), train))  # type: ignore[arg-type]
        return {output: said(logits, has, name) for output, logits in self.heads[name](features).items()}


def tokens(x: jax.Array) -> jax.Array:
    """Positions of features [B, ..., C] in a row, [B, T, C]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def there(has: jax.Array, place: int, rank: int) -> jax.Array:
    """Whether a modality is there, bool [B, 1, ...] of that rank."""
    return (has[:, place] > 0).reshape(-1, *[1] * (rank - 1))


def counted(weight: jax.Array, has: jax.Array) -> jax.Array:
    """Weights [B] for BatchNorm: of those who have [B] the modality, or of all where nobody has it."""
    theirs = weight * has
    return jnp.where(theirs.sum() > 0, theirs, weight)


def or_else(has: jax.Array, x: jax.Array, instead: jax.Array) -> jax.Array:
    """Tokens x [B, T, C] of who has [B] them, and the learnt one [C] of who has not."""
    return jnp.where(has[:, None, None] > 0, x, instead[None, None].astype(x.dtype))


def said(logits: jax.Array, has: jax.Array, name: str) -> jax.Array:
    """What a branch says, 0 where its modality is missing; [B, classes]."""
    return jnp.where(there(has, MODALITIES.index(name), 2), logits, jnp.zeros((), logits.dtype))  # type: ignore[arg-type]
