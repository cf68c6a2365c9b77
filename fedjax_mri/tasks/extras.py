"""Terms that any translation may add to its generators' loss, each by its weight; 0 costs nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax

from fedjax_mri.core.errors import UserError, known
from fedjax_mri.core.imports import imported
from fedjax_mri.metrics import image
from fedjax_mri.tasks import biophysics, losses
from fedjax_mri.tasks.losses import Encoder
from fedjax_mri.tasks.task import Batch
from fedjax_mri.tasks.translation import Terms, check_weights
from fedjax_mri.tasks.units import Window, given, unit


class Way(NamedTuple):
    """One direction of a translation; images [B, H, W, C] in -1..1."""

    to: str
    source: jax.Array
    made: jax.Array
    back: jax.Array | None = None  # made from `made`, where there is a way back
    truth: jax.Array | None = None  # the same patient in the wanted modality, where training is paired

    @property
    def equals(self) -> tuple[jax.Array, jax.Array]:
        """Two images that ought to be equal: made and true, or there and back."""
        if self.truth is not None:
            return self.made, self.truth
        assert self.back is not None
        return self.back, self.source


Term = Callable[[Way, Batch], jax.Array]  # -> [B]
HU = {"biophysical", "hu_bounds"}  # terms that need HU, and the site's signals
FEATURES = {"perceptual", "cycle_perceptual"}  # terms that need an encoder
WEIGHTS = (*sorted(HU), *sorted(FEATURES), "gradient_difference", "ssim", "structure")


class Added(NamedTuple):
    """What was asked for."""

    weights: dict[str, float]
    terms: Callable[[Way, Batch], Terms]  # those of one direction, unweighted


@dataclass(frozen=True)
class Extras:
    """Weights of further terms. x is translated to y, and x' is y's translation back; pix2pix has the true y* instead.

    Images are compared in 0..1. The classifier behind an encoder was trained on one modality of the phantom; of the
    other its features are merely some features.
    """

    # mean |y - E| or (y - E)^2 for y an MR, E the MR expected from the tissue in the CT x (system A): `expected_mr`
    biophysical: float = 0.0
    biophysical_norm: Literal["l1", "l2"] = "l1"
    hu_bounds: float = 0.0  # for y a CT: its distance from the HU of the tissues in the MR x: `beyond_bounds`
    structure: float = 0.0  # neuro-symbolic (system A), L2 of structure filters' responses on x and y
    ssim: float = 0.0  # 1 - SSIM(x', x), or of y and y*
    gradient_difference: float = 0.0  # mean ||dx'| - |dx|| over neighbours, or of y and y*
    perceptual: float = 0.0  # sum over feature maps f of mean (f(y) - f(x))^2, or f(y*)
    cycle_perceptual: float = 0.0  # the same of x' and x (system E); not for pix2pix
    # any importable function: encoder_path -> (images [B, H, W, C] in 0..1 -> feature maps); this one takes any run
    encoder: str = "fedjax_mri.run.encoder.of_run"
    encoder_path: str = ""  # of a frozen classifier's weights: the folder of a run

    def build(self, window: Window) -> Added:
        """The terms whose weights are not 0. Raises UserError where one cannot be had."""
        check_weights(self, *WEIGHTS, at="task.extras")
        weights = self.weights()
        if window is None and HU & set(weights):
            raise UserError("task.window=None: extras.biophysical and extras.hu_bounds need CT in HU, and its window")
        encoder = self._encoder() if FEATURES & set(weights) else _blind
        ways = {"mr": self._to_mr() | _either(encoder), "ct": _to_ct(window) | _either(encoder)}

        def terms(way: Way, batch: Batch) -> Terms:
            return {name: term(way, batch) for name, term in ways[way.to].items() if name in weights}

        return Added(weights, terms)

    def weights(self) -> dict[str, float]:
        """Those that are not 0, or not known yet, by name."""
        given = {name: getattr(self, name) for name in WEIGHTS}
        return {name: weight for name, weight in given.items() if not known(weight) or weight}

    def _to_mr(self) -> dict[str, Term]:
        compare = {"l1": image.mae, "l2": image.mse}[self.biophysical_norm]

        def biophysical(way: Way, batch: Batch) -> jax.Array:
            return compare(unit(way.made), biophysics.expected_mr(batch["ct"], signals(batch)))

        return {"biophysical": biophysical}

    def _encoder(self) -> Encoder:
        return imported(self.encoder, "task.extras.encoder")(self.encoder_path)


def _to_ct(window: Window) -> dict[str, Term]:
    def hu_bounds(way: Way, batch: Batch) -> jax.Array:
        assert window is not None
        return biophysics.beyond_bounds(given(window, "ct", way.made), batch["mr"], signals(batch), window)

    return {"hu_bounds": hu_bounds}


def _either(encoder: Encoder) -> dict[str, Term]:
    """The terms of both directions, which compare images and no more."""

    def equals(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Term:
        return lambda way, batch: loss(*map(unit, way.equals))

    def content(way: Way, batch: Batch) -> jax.Array:
        kept = way.source if way.truth is None else way.truth
        return losses.perceptual(encoder, unit(way.made), unit(kept))

    return {
        "structure": lambda way, batch: losses.structure(unit(way.made), unit(way.source)),
        "ssim": equals(losses.dissimilarity),
        "gradient_difference": equals(losses.gradient_difference),
        "perceptual": content,
        "cycle_perceptual": equals(partial(losses.perceptual, encoder)),
    }


def _blind(x: jax.Array) -> list[jax.Array]:
    return []


def signals(batch: Batch) -> jax.Array:
    """What each tissue gives in the site's MR, [B, T]. Raises UserError where the data do not say."""
    if "signals" not in batch:
        raise UserError("the data have no field signals: set task.extras.biophysical and task.extras.hu_bounds to 0")
    return batch["signals"]
