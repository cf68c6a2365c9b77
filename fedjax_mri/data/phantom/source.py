"""The phantom as a source of data: any number of synthetic hospitals, every example computed where it is used."""

import functools
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np

from fedjax_mri.data.contract import Batch, Federation, Table, Test

from . import procedural
from .cases import skewed
from .lesions import CLASSES, LesionModel
from .patient import Patient, draw_patient, picture
from .procedural import Pictures, Read, quartile_rows, require, site_table
from .scanner import CT_WINDOW, show_ct
from .site import Site, SiteModel, draw_site

SIZES = (64, 128, 224, 240, 256)


@dataclass(frozen=True)
class Phantom:
    """Synthetic CT and MR of glioma, meningioma, pituitary tumour and no tumour, from hospitals that differ."""

    clients: int = 1000
    test_clients: int = 100  # unseen sites; as many training sites are tested on new patients
    test_patients: int = 16  # per site of either test set
    validation_patients: int | None = None  # new ones of the training sites tested; None: as many as test; 0: none
    size: int = 64  # pixels
    image: Literal["mr", "ct"] = "mr"  # what the classifier sees
    sites: SiteModel = field(default_factory=SiteModel)
    lesions: LesionModel = field(default_factory=LesionModel)

    def build(self, seed: int) -> Federation:
        """Returns the federation; no picture is made here. Raises UserError on a setting that makes no sense."""
        check(self)
        federation, sites = procedural.federation(self, pictures(self), CLASSES, seed)
        return federation._replace(
            image=(self.size, self.size, 1),
            modalities=(self.image,),
            window=CT_WINDOW,
            tables=(table(self.sites, sites),),
            groups={
                "field strength": np.where(sites.field > 2, "3 T", "1.5 T"),
                "sequence": np.array(list(self.sites.protocols))[sites.protocol],
            },
        )

    def evaluation(self, classes: tuple[str, ...], seed: int) -> tuple[dict[str, Test], tuple[Table, ...]]:
        """Returns the test sets. Raises UserError where the saved model does not know a class."""
        return procedural.evaluation(self.build(seed), classes), ()


def pictures(phantom: Phantom) -> Pictures:
    """Returns how a phantom is drawn (`patient.picture`).

    image [B, S, S, 1] in 0..1, label [B], mr in 0..1, ct in HU, tissue [.., T], mask and more.
    """
    return _pictures(phantom.size, phantom.image, replace(phantom.sites, class_alpha=1.0), phantom.lesions)


@functools.cache
def _pictures(size: int, image: str, sites: SiteModel, lesions: LesionModel) -> Pictures:
    def shown(site: Site, patient: Patient) -> Batch:
        batch = picture(sites, lesions, size, site, patient)
        return {"image": show_ct(batch["ct"]) if image == "ct" else batch["mr"], **batch}

    return Pictures(skewed(draw_site, sites), partial(draw_patient, sites, lesions), shown)


def reader(phantom: Phantom) -> Read:
    """Returns `read` of a ClientData of the phantom."""
    return procedural.reader(pictures(phantom))


def table(model: SiteModel, sites: Site) -> Table:
    """Returns a table of field strengths, sequences and the quartiles of every measured trait."""
    rows = [(f"{tesla:g} T", f"{np.mean(sites.field == tesla):.0%}") for tesla in (1.5, 3.0)]
    rows += [(name, f"{np.mean(sites.protocol == i):.0%}") for i, name in enumerate(model.protocols)]
    measured = {
        "patients": sites.patients,
        "MR noise, %": 100 * sites.mr_noise,
        "bias field, %": 100 * sites.bias_field,
        "CT noise, HU": sites.ct_noise,
        "CT blur, mm": sites.ct_blur,
        "field of view, mm": sites.field_of_view,
    }
    return site_table("Sites of the phantom", [*rows, *quartile_rows(measured)])


def check(phantom: Phantom) -> None:
    """Raises UserError on the first setting that makes no sense."""
    procedural.check(phantom, CLASSES)
    shares = tuple(protocol.share for protocol in phantom.sites.protocols.values())
    require("sites.three_tesla", phantom.sites.three_tesla, phantom.sites.three_tesla <= 1, "give a share from 0 to 1")
    require("sequence shares", shares, sum(shares) > 0, "give at least one sequence a share above 0")
    view = phantom.sites.field_of_view
    require("sites.field_of_view", view, view[0] >= 150, "give 150 mm or more")
    chances = ("distractors", "distractors_elsewhere", "low_slices", "high_grade", "thickened_bone", "calcified")
    for name in (*chances, "one_modality"):
        share = getattr(phantom.lesions, name)
        require(f"lesions.{name}", share, share <= 1, "give a share from 0 to 1")
    require("size", phantom.size, phantom.size in SIZES, f"choose one of {', '.join(map(str, SIZES))}")
    require("image", phantom.image, phantom.image in ("mr", "ct"), "choose mr or ct")
