"""Terms that any translation may add to its generators' loss, each by its weight; 0 costs nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax

from fedjax_mri.core.errors import UserError, is_concrete
from fedjax_mri.core.imports import imported
from fedjax_mri.metrics import image
from fedjax_mri.tasks import biophysics, losses
from fedjax_mri.tasks.intensities import Window, in_units, to_unit_range
from fedjax_mri.tasks.task import Batch, Encoder, Task
from fedjax_mri.tasks.translation import Terms, check_weights


class Direction(NamedTuple):
    """Images of one direction of a translation, [B, H, W, C] in -1..1."""

    to: str  # modality
    source: jax.Array
    made: jax.Array
    back: jax.Array | None = None  # made from `made`, where there is a way back
    truth: jax.Array | None = None  # the same patient in the modality `to`, where training is paired

    @property
    def alike(self) -> tuple[jax.Array, jax.Array]:
        """Two images that ought to be equal: made and true, or there and back."""
        if self.truth is not None:
            return self.made, self.truth
        assert self.back is not None
        return self.back, self.source


Term = Callable[[Direction, Batch], jax.Array]  # -> [B]
HU = {"biophysical", "hu_bounds"}  # terms that need HU, and the site's signals
FEATURES = {"perceptual", "cycle_perceptual"}  # terms that need an encoder
WEIGHTS = (*sorted(HU), *sorted(FEATURES), "gradient_difference", "ssim", "structure")


class ExtraTerms(NamedTuple):
    """The terms whose weights are not 0."""

    weights: dict[str, float]
    terms: Callable[[Direction, Batch], Terms]  # those of one direction, unweighted


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
    # any importable function: encoder_path -> (images [B, H, W, C] in 0..1 -> feature maps); "": of the run there
    encoder: str = ""
    encoder_path: str = ""  # of a frozen classifier's weights: the folder of a run

    def build(self, window: Window, encoder: Encoder | None = None) -> ExtraTerms:
        """Returns the terms whose weights are not 0, by `encoder` or the one named.

        Raises UserError if a weight is negative, if a term needs CT in HU and there is no window, and if the encoder
        named cannot be imported. If a term compares feature maps and there is no encoder, the terms raise it when they
        are computed.
        """
        check_weights(self, *WEIGHTS, at="task.extras")
        weights = self.weights()
        if window is None and HU & set(weights):
            raise UserError("task.window=None: extras.biophysical and extras.hu_bounds need CT in HU, and its window")
        of_images = terms_of_images(encoder or self._encoder())
        by_direction = {
            "mr": {"biophysical": self._biophysical} | of_images,
            "ct": {"hu_bounds": partial(hu_bounds, window)} | of_images,
        }

        def terms(direction: Direction, batch: Batch) -> Terms:
            found = by_direction[direction.to]
            return {name: term(direction, batch) for name, term in found.items() if name in weights}

        return ExtraTerms(weights, terms)

    def weights(self) -> dict[str, float]:
        """Returns the weights that are not 0, or not known yet, by name."""
        weights = {name: getattr(self, name) for name in WEIGHTS}
        return {name: weight for name, weight in weights.items() if not is_concrete(weight) or weight}

    def _encoder(self) -> Encoder:
        needed = self.encoder and FEATURES & set(self.weights())
        return imported(self.encoder, "task.extras.encoder")(self.encoder_path) if needed else missing_encoder

    def _biophysical(self, direction: Direction, batch: Batch) -> jax.Array:
        compare = {"l1": image.mae, "l2": image.mse}[self.biophysical_norm]
        return compare(to_unit_range(direction.made), biophysics.expected_mr(batch["ct"], signals(batch)))


def with_features(extras: Extras, make: Callable[[Encoder | None], Task]) -> Task:
    """Returns the task that `make` makes, which may be given the encoder of a run later.

    `make` takes an encoder, or None: then `Extras.build` imports the one that the extras name. Where perceptual terms
    have a weight and no encoder is named, it is a run's classifier, which only the room `run` can restore: until
    `with_encoder` is called, such a task cannot train.
    """
    task = make(None)
    if extras.encoder or not FEATURES & set(extras.weights()):
        return task
    return task._replace(with_encoder=lambda load: make(load(extras.encoder_path)))


def hu_bounds(window: Window, direction: Direction, batch: Batch) -> jax.Array:
    """Returns how far the CT made lies from the HU of the tissues in the MR, [B]; see `beyond_bounds`."""
    assert window is not None
    return biophysics.beyond_bounds(in_units(window, "ct", direction.made), batch["mr"], signals(batch), window)


def terms_of_images(encoder: Encoder) -> dict[str, Term]:
    """Returns the terms of both directions, which compare images and no more."""

    def of_alike(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Term:
        return lambda direction, batch: loss(*map(to_unit_range, direction.alike))

    def perceptual(direction: Direction, batch: Batch) -> jax.Array:
        wanted = direction.source if direction.truth is None else direction.truth
        return losses.perceptual(encoder, to_unit_range(direction.made), to_unit_range(wanted))

    def structure(direction: Direction, batch: Batch) -> jax.Array:
        return losses.structure(to_unit_range(direction.made), to_unit_range(direction.source))

    return {
        "structure": structure,
        "ssim": of_alike(losses.dissimilarity),
        "gradient_difference": of_alike(losses.gradient_difference),
        "perceptual": perceptual,
        "cycle_perceptual": of_alike(partial(losses.perceptual, encoder)),
    }


def missing_encoder(x: jax.Array) -> list[jax.Array]:
    """Raises UserError: the task was not given the encoder that it needs."""
    raise UserError("task.extras.encoder is empty: name a function that loads an encoder, or call `with_encoder`")


def signals(batch: Batch) -> jax.Array:
    """Returns the signal of each tissue in the site's MR, [B, T]. Raises UserError where the data do not say."""
    if "signals" not in batch:
        raise UserError("the data have no field signals: set task.extras.biophysical and task.extras.hu_bounds to 0")
    return batch["signals"]
