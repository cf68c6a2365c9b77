"""The steps of `fedjax-mri prepare` by name: each takes the scans of a patient, and gives them changed.

Such a group is one scan, or the CT and the MR of one patient. In `--steps` a step may have a value, as in crop:5mm.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, cast

import jax.numpy as jnp
import numpy as np

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.files.read import read
from fedjax_mri.data.files.scan import Limits, Scan
from fedjax_mri.data.prepare import bias, crop, foreground, intensities, register, resample, strip

VOLUME = 8  # slices from which the slices of a scan are one volume, where spacing is known
ASSUMED = 240.0  # mm, the longer side of a slice whose spacing is not known
REGISTERED_NOTE = "registered to the MR"
REGISTERED = (-200.0, 1000.0)  # HU that are compared with an MR

Group = dict[str, Scan]  # by modality: "ct", "mr", or "" where it is not known
Step = Callable[[Group], Group]


class StepType(NamedTuple):
    """A step as `--steps` names it."""

    make: Callable[[str], Step]  # from its value
    default: str  # the value where none is given; "" where one must be given, "-" where none may be
    text: str  # what it does


def parse(words: str) -> dict[str, Step]:
    """Returns the steps that `words` name, separated by commas, in order, by their full text.

    Raises UserError on what is no step.
    """
    found: dict[str, Step] = {}
    for word in (part.strip() for part in words.split(",")):
        name, _, value = word.partition(":")
        if name not in STEP_TYPES:
            raise UserError(f"--steps {word!r}: no such step; give some of {', '.join(STEP_TYPES)}, with commas")
        kind = STEP_TYPES[name]
        if value and kind.default == "-":
            raise UserError(f"--steps {word}: {name} takes no value")
        if not value and not kind.default:
            raise UserError(f"--steps {word}: give a value, such as {name}:{EXAMPLES[name]}")
        value = value or kind.default
        full = name if value == "-" else f"{name}:{value}"
        if full in found:
            raise UserError(f"--steps {full}: given twice")
        found[full] = kind.make(value)
    return found


def number(name: str, value: str, unit: str = "mm") -> float:
    """Returns a positive number, after which its unit may be written. Raises UserError on anything else."""
    try:
        found = float(value.removesuffix(unit))
    except ValueError:
        found = math.nan
    if not (0 < found < math.inf):
        raise UserError(f"--steps {name}:{value}: give a positive number, such as {name}:{EXAMPLES[name]}")
    return found


def one_of(name: str, value: str, *choices: str) -> str:
    """Returns the value. Raises UserError where it is none of the choices."""
    if value not in choices:
        raise UserError(f"--steps {name}:{value}: give {' or '.join(choices)}")
    return value


def each(change: Callable[[Scan], Scan]) -> Step:
    """Returns a step that changes each scan of a group by itself."""
    return lambda group: {modality: change(scan) for modality, scan in group.items()}


def each_mr(change: Callable[[Scan], Scan]) -> Step:
    """Returns a step that changes each scan of a group but those called CT, or in HU."""
    return lambda group: {
        modality: scan if modality == "ct" or scan.units == "hu" else change(scan) for modality, scan in group.items()
    }


def spacing_of(scan: Scan) -> tuple[float, ...]:
    """Returns the scan's spacing in mm; where it is not known, as if the longer side were a head's field of view."""
    return scan.spacing or (ASSUMED / max(scan.voxels.shape[1:]),) * 3


def fill_of(scan: Scan) -> float:
    """Returns the value of what is around the head."""
    return -1000.0 if scan.units == "hu" else min(0.0, float(scan.voxels.min()))


def is_volume(scan: Scan) -> bool:
    """Returns whether the slices of a scan are looked at together."""
    return len(scan.voxels) >= VOLUME and bool(scan.spacing)


def by_parts(scan: Scan, find: Callable[[np.ndarray, tuple[float, ...]], np.ndarray]) -> np.ndarray:
    """Returns what `find(image, spacing)` gives of the volume [D, H, W], or of each slice [H, W].

    The result has the scan's shape.
    """
    spacing = spacing_of(scan)
    if is_volume(scan):
        return find(scan.voxels, spacing)
    return np.stack([find(one, spacing[1:]) for one in scan.voxels])


def head_of(scan: Scan) -> np.ndarray:
    """Returns the head as a mask of the scan's shape."""
    return by_parts(scan, lambda image, _: foreground.head(image))


def needs_display(name: str, scan: Scan) -> None:
    """Raises UserError on values that are not in 0..1."""
    if scan.units != "display":
        raise UserError(f"{name}: its values are not in 0..1; put window or rescale before it")


def windowing(value: str) -> Step:
    """Returns the step that shows CT in a window of HU; MR stays."""
    low, parted, high = value.partition("..")
    try:
        edges = (float(low), float(high))
    except ValueError:
        edges = (math.nan, math.nan)
    if not parted or not edges[0] < edges[1]:
        raise UserError(f"--steps window:{value}: give the lower and the higher HU, such as window:-100..300")

    def change(scan: Scan) -> Scan:
        if scan.units != "hu":
            return scan._replace(notes=(*scan.notes, f"window:{value} changed nothing, as the values are not HU"))
        return scan._replace(voxels=intensities.windowed(scan.voxels, *edges), units="display")

    return each(change)


def rescaling(_: str) -> Step:
    """Returns the step that brings what is not in HU to 0..1."""

    def change(scan: Scan) -> Scan:
        if scan.units == "hu":
            return scan
        return scan._replace(voxels=intensities.rescale(scan.voxels, head_of(scan)), units="display")

    return each(change)


def resampling(value: str) -> Step:
    """Returns the step that brings scans to a spacing."""
    sides = [number("resample", side) for side in value.split("x")]
    if len(sides) not in (1, 3):
        raise UserError(f"--steps resample:{value}: give one spacing, or three: of slices, rows and columns")
    wanted = tuple(sides * 3 if len(sides) == 1 else sides)

    def change(scan: Scan) -> Scan:
        if not scan.spacing:
            raise UserError("resample: its spacing in mm is not known; use size instead")
        own = (wanted[0] if len(scan.voxels) == 1 else scan.spacing[0], *scan.spacing[1:])
        voxels, spacing = resample.to_spacing(scan.voxels, own, wanted)
        return scan._replace(voxels=voxels, spacing=spacing)

    return each(change)


def sizing(value: str) -> Step:
    """Returns the step that brings slices to squares of a side in pixels."""
    side = number("size", value, "px")
    if side != int(side) or side < 8:
        raise UserError(f"--steps size:{value}: give 8 or more whole pixels")

    def change(scan: Scan) -> Scan:
        voxels, spacing = resample.to_size(scan.voxels, spacing_of(scan), int(side), fill_of(scan))
        return scan._replace(voxels=voxels, spacing=spacing if scan.spacing else ())

    return each(change)


def unbiased(_: str) -> Step:
    """Returns the step that divides an MR by its coil's field; CT stays."""

    def change(scan: Scan) -> Scan:
        voxels = by_parts(scan, lambda image, _: bias.correct_bias(image, foreground.head(image))[0])
        return scan._replace(voxels=np.clip(voxels, 0, 1) if scan.units == "display" else voxels)

    return each_mr(change)


def stripped(_: str) -> Step:
    """Returns the step that keeps nothing of a scan but the brain; a registered pair is cut to the MR's brain."""

    def brain(modality: str, scan: Scan) -> np.ndarray:
        if modality == "ct" and scan.units != "hu":
            raise UserError("strip: a CT whose values are not HU; put strip before window, or leave strip out")
        return by_parts(scan, strip.ct_brain if scan.units == "hu" else strip.mr_brain)

    def change(group: Group) -> Group:
        masks = {modality: brain(modality, scan) for modality, scan in group.items()}
        for mask in masks.values():
            if not mask.any():
                raise UserError("strip: no brain is found in it; leave out the step, or the file")
        if on_one_grid(group):
            masks = dict.fromkeys(masks, masks["mr"])
        return {
            modality: scan._replace(voxels=np.where(masks[modality], scan.voxels, np.float32(fill_of(scan))))
            for modality, scan in group.items()
        }

    return change


def on_one_grid(group: Group) -> bool:
    """Returns whether a pair was registered, as the CT's notes say."""
    return len(group) == 2 and REGISTERED_NOTE in group["ct"].notes


def registering(_: str) -> Step:
    """Returns the step that lays the CT of a patient onto the MR's grid; a scan without the other stays."""

    def change(group: Group) -> Group:
        if set(group) != {"ct", "mr"}:
            note = "register changed nothing: no CT and MR of one patient, in folders called ct and mr"
            return {modality: scan._replace(notes=(*scan.notes, note)) for modality, scan in group.items()}
        ct, mr = group["ct"], group["mr"]
        low, high = REGISTERED if ct.units == "hu" else (0.0, 1.0)
        moving, fixed = intensities.windowed(ct.voxels, low, high), intensities.rescale(mr.voxels, head_of(mr))
        steps = spacing_of(mr), spacing_of(ct)
        if len(fixed) == len(moving) == 1:
            fixed, moving, steps = fixed[0], moving[0], (steps[0][1:], steps[1][1:])
        elif not (is_volume(ct) and is_volume(mr)):
            raise UserError(
                f"register: the CT has {len(moving)} slices, the MR {len(fixed)}; both must be single slices, or both "
                f"volumes of {VOLUME} or more slices of known spacing"
            )
        found = register.register(
            jnp.asarray(fixed), jnp.asarray(moving), *(jnp.asarray(step, jnp.float32) for step in steps)
        )
        voxels = ct.voxels[0] if moving.ndim == 2 else ct.voxels
        laid = resample.onto(voxels, steps[1], found, fixed.shape, steps[0], fill_of(ct))
        notes = (*ct.notes, REGISTERED_NOTE, moved_by(found))
        laid = laid.reshape(mr.voxels.shape)
        return {"ct": ct._replace(voxels=laid, spacing=mr.spacing, notes=notes), "mr": mr}

    return change


def moved_by(found: register.Rigid) -> str:
    """Returns a sentence that says how far a CT was turned and shifted."""
    angle = math.degrees(2 * math.atan(float(jnp.linalg.norm(found.turn))))
    length = float(jnp.linalg.norm(found.shift + found.moving_centre - found.fixed_centre))
    return f"turned by {angle:.1f} degrees, shifted by {length:.1f} mm"


def cropping(value: str) -> Step:
    """Returns the step that cuts to the head; a registered pair to the same box."""
    margin = number("crop", value)

    def change(group: Group) -> Group:
        heads = {modality: head_of(scan) for modality, scan in group.items()}
        boxed = {modality: list(heads.values()) if on_one_grid(group) else [head] for modality, head in heads.items()}
        return {
            modality: scan._replace(voxels=scan.voxels[crop.box(boxed[modality], spacing_of(scan), margin)])
            for modality, scan in group.items()
        }

    return change


def denoising(value: str) -> Step:
    """Returns the step that takes noise off each slice."""
    how = cast(Literal["median", "gaussian", "nlm"], one_of("denoise", value, "median", "gaussian", "nlm"))
    return each(lambda scan: scan._replace(voxels=intensities.denoise(scan.voxels, how)))


def contrasting(value: str) -> Step:
    """Returns the step that gives each slice more contrast."""
    how = cast(Literal["clahe", "stretch"], one_of("contrast", value, "clahe", "stretch"))

    def change(scan: Scan) -> Scan:
        needs_display("contrast", scan)
        return scan._replace(voxels=intensities.with_contrast(scan.voxels, how))

    return each(change)


def matching(reference: Callable[[], Scan]) -> Step:
    """Returns the step that gives the heads of MR the histogram of a reference's head; CT stays.

    The step raises UserError where one of the two is a picture in 0..1, and the other is not.
    """

    def change(scan: Scan) -> Scan:
        target = reference()
        if (scan.units == "display") != (target.units == "display"):
            raise UserError("match: of the scan and the reference one is in 0..1 and the other is not: match before "
                            "rescale, or give a reference that was rescaled as well")  # fmt: skip
        voxels = intensities.match_histogram(scan.voxels, head_of(scan), target.voxels[head_of(target)])
        return scan._replace(voxels=np.clip(voxels, 0, 1) if scan.units == "display" else voxels)

    return each_mr(change)


def reference_file(value: str) -> Step:
    """Returns the step that matches histograms to that of a file."""

    @functools.cache
    def reference() -> Scan:
        try:
            return read(Path(value), "mr", Limits())
        except UserError as error:
            raise UserError(f"--steps match:{value}: {error}") from None

    reference()  # a bad file is refused before anything is done
    return matching(reference)


STEP_TYPES: dict[str, StepType] = {
    "resample": StepType(resampling, "", "to a spacing in mm, as 1mm or 3x1x1mm"),
    "size": StepType(sizing, "", "slices to squares of a side in pixels"),
    "window": StepType(windowing, "", "CT shown in 0..1 by a window of HU"),
    "rescale": StepType(rescaling, "-", "MR to 0..1 by quantiles of the head"),
    "bias": StepType(unbiased, "-", "the field of an MR's coil divided out"),
    "strip": StepType(stripped, "-", "the brain alone"),
    "register": StepType(registering, "-", "the CT of a patient onto the MR's grid"),
    "crop": StepType(cropping, "5mm", "to the box around the head, with a margin"),
    "denoise": StepType(denoising, "median", "median, gaussian or nlm (non-local means)"),
    "contrast": StepType(contrasting, "clahe", "clahe (adaptive equalisation) or stretch"),
    "match": StepType(reference_file, "", "MR to the histogram of a file"),
}
EXAMPLES = {"resample": "1mm", "size": "256", "window": "-100..300", "crop": "5mm", "match": "FILE"}
