"""Classification from the CT and the MR of a patient, of which hospitals may lack one (system D).

    minimise  CE(fusion) + CE(server) + auxiliary (CE(ct) + CE(mr))          over the outputs that the network has

Batches hold "ct" (HU, or 0..1 where there is no window), "mr" (0..1), "label", and "has" [B, 2], 1 where CT or MR is
there; without "has" both are. Images are [B, H, W, 1], volumes [B, D, H, W, 1]. In training `dropout` hides one of two
modalities from the network, so that it learns to do without either. With a `classical` rule the two become one image
first, which the network sees in place of the CT: take `Late(("ct",))`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_mri.core import paths
from fedjax_mri.core.errors import UserError
from fedjax_mri.data.augment import (
    Augment,
    Preprocess,
    channels_to_slices,
    middle_slices,
    prepared_shape,
    preprocess,
    scaled,
    slices_to_channels,
    training_images,
)
from fedjax_mri.data.classical_fusion import fuse
from fedjax_mri.data.contract import DataDescription
from fedjax_mri.data.shift import HAS, KINDS
from fedjax_mri.metrics import classification
from fedjax_mri.metrics.classification import Tally
from fedjax_mri.nets.conv.compute import Compute
from fedjax_mri.nets.dropout import check_rates
from fedjax_mri.nets.functional import Net
from fedjax_mri.nets.fusion import MODALITIES, OWN, Cross, Outputs
from fedjax_mri.tasks.classify import DROPS, TINY, classifier, greys
from fedjax_mri.tasks.intensities import Window, displayed, limits
from fedjax_mri.tasks.task import Batch, Carry, Loss, Model, Params, Phase, Task, everything, labelled, mean
from fedjax_mri.tasks.translation import check_weights

BRANCHES = MODALITIES  # outputs of a branch alone, in the order of "has"
HIDES = DROPS - 2  # the number of modality dropout's key among a step's keys, as DROPS is dropout's


@dataclass(frozen=True)
class Fuse:
    """Settings of the fusion task."""

    network: Any = field(default_factory=Cross)  # or Early, Late
    classical: Literal["none", "average", "pca", "wavelet"] = "none"  # the rule that makes one image of two
    heads: Literal["shared", "client"] = "shared"  # client: each keeps a head of its own beside the one that travels
    dropout: float = 0.0  # share of the training examples with CT and MR of which one is hidden, either as often
    auxiliary: float = 0.3  # weight of the losses of each branch alone
    window: Window = (-100.0, 300.0)  # HU that count as 0 and 1; None: CT is a picture in 0..1
    statistics: Literal["average", "local"] = "average"  # as in `Classify`
    preprocess: Preprocess = field(default_factory=Preprocess)
    augment: Augment = field(default_factory=Augment)  # CT and MR alike

    def build(self, described: DataDescription, compute: Compute) -> Task:
        """Returns the task for images [H, W, C] or volumes [D, H, W, C]. Raises UserError on impossible settings."""
        check_rates({"task.dropout": self.dropout})
        check_weights(self, "auxiliary")
        limits(self.window)
        if self.classical != "none" and self.network.modalities != ("ct",):
            raise UserError(f"task.classical={self.classical}: makes one image; take network=Late(('ct',))")
        shape = (*prepared_shape(self.preprocess, described.image)[:-1], 1)
        heads = self.heads == "client"
        return fusion(self, self.network.build(shape, len(described.classes), compute, client_heads=heads))


class FusionTally(NamedTuple):
    """Weighted sums over examples: a `Tally` of the fused prediction, and one of each of its parts.

    Parts are the other outputs, a branch's over those who have its modality; and the patients of whom there is CT only,
    MR only or both.
    """

    confusion: jax.Array
    nll: jax.Array
    weight: jax.Array
    bins: jax.Array
    parts: dict[str, Tally]


def fusion(settings: Fuse, net: Net) -> Task:
    """Returns the classification task of `net`, of `nets/fusion.py`."""

    def loss(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> Loss:
        inputs = network_inputs(settings, batch, key)
        outputs, carry = net.apply(params, carry, *inputs, batch["weight"], True, jax.random.fold_in(key, DROPS))
        each = {name: optax.softmax_cross_entropy_with_integer_labels(x, batch["label"]) for name, x in outputs.items()}
        cost = sum(mean(settings.auxiliary * x if name in BRANCHES else x, batch["weight"]) for name, x in each.items())
        return jnp.asarray(cost), (carry, tally(outputs, batch))

    def outputs_of(params: Params, carry: Carry, batch: Batch) -> Outputs:
        return net.apply(params, carry, *network_inputs(settings, batch), batch["weight"], False)[0]

    def scores(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        return outputs_of(params, carry, batch)["fusion"]

    def shown(params: Params, carry: Carry, batch: Batch) -> dict[str, jax.Array]:
        pair = [middle_slices(x) for x in network_inputs(settings, batch)[:2]]
        return {"image": jnp.concatenate(pair, 2), **labelled(task.predict(params, carry, batch), batch)}

    def shared(model: Model) -> Model:
        own = paths.matching(model, (OWN,)).params
        return task.shared(model)._replace(params=jax.tree.map(lambda mine: not mine, own))

    task = classifier(net, Phase(loss, everything), scores, settings.statistics)
    return task._replace(
        evaluate=lambda params, carry, batch: tally(outputs_of(params, carry, batch), batch),
        tally=lambda chances, batch: tally({"fusion": jnp.log(jnp.maximum(chances, TINY))}, batch),
        shared=shared,
        summary=summary,
        score=lambda sums: classification.accuracy(fused_tally(sums)),
        kept=lambda prediction, batch: {**labelled(prediction, batch), "has": modalities_there(batch)},
        shown=shown,
        network=settings.network,
        reads={"ct": "hu" if settings.window else "unit", "mr": greys(settings.preprocess), "label": "class"},
    )


def network_inputs(
    settings: Fuse, batch: Batch, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns CT and MR in 0..1, of the shape that the network takes, and which of them there are [B, 2].

    With a key they are as in training.
    """
    ct, mr = displayed(settings.window, "ct", batch["ct"].astype(jnp.float32)), scaled(batch["mr"])
    both, has = jnp.concatenate([ct, mr], -1), modalities_there(batch)
    if key is None:
        both = preprocess(settings.preprocess, both)
    else:
        both = training_images(settings.preprocess, settings.augment, key, both)
        has = modality_dropout(jax.random.fold_in(key, HIDES), has, settings.dropout)
    ct, mr = jnp.split(both, 2, -1)
    if settings.classical != "none":
        one = fuse(settings.classical, slices_to_channels(ct), slices_to_channels(mr), has)
        ct, has = channels_to_slices(one, ct.shape), jnp.stack([has.max(1), jnp.zeros_like(has[:, 1])], 1)
    return ct, mr, has


def modalities_there(batch: Batch) -> jax.Array:
    """Returns which modalities each patient has, float32 [B, 2]: CT, MR; all where the data do not say."""
    return batch["has"] if "has" in batch else jnp.ones((len(batch["label"]), 2), jnp.float32)


def modality_dropout(key: jax.Array, has: jax.Array, rate: float) -> jax.Array:
    """Returns `has` [B, 2] with one of two modalities taken away from a share of examples, `rate`."""
    chance, which = jax.random.uniform(key, (2, len(has)), jnp.float32)
    gone = (has.min(1) > 0) & (chance < rate)
    return has * (1 - jnp.stack([gone & (which < 0.5), gone & (which >= 0.5)], 1).astype(jnp.float32))


def tally(outputs: Outputs, batch: Batch) -> FusionTally:
    """Returns the sums over a batch, from the logits of each output."""
    has, label, weight = modalities_there(batch), batch["label"], batch["weight"]
    covers: dict[str, jax.Array] = {name: weight * has[:, place] for place, name in enumerate(BRANCHES)}
    others = {name: (x, covers.get(name, weight)) for name, x in outputs.items() if name != "fusion"}
    kinds = {kind: weight * (has == jnp.asarray(one)[None]).all(1).astype(jnp.float32) for kind, one in zip(KINDS, HAS)}
    parts = {**others, **{kind: (outputs["fusion"], cover) for kind, cover in kinds.items()}}
    total = classification.tally(outputs["fusion"], label, weight)
    return FusionTally(*total, {name: classification.tally(x, label, cover) for name, (x, cover) in parts.items()})


def fused_tally(sums: FusionTally) -> Tally:
    """Returns the sums of the fused prediction."""
    return Tally(*sums[:4])


def summary(sums: FusionTally) -> dict[str, float]:
    """Returns figures of the fused prediction, and accuracy and F1 of the parts that have an example."""
    figures = classification.summary(fused_tally(sums))
    for name, part in sums.parts.items():
        if part.weight > 0:
            one = classification.summary(part)
            figures |= {f"{name} {figure}": one[figure] for figure in ("accuracy", "f1")}
    return figures
