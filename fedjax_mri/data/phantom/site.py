"""What makes one hospital differ from the next: every trait a physical quantity with a distribution of its own."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .cases import CaseMix, Range, between, draw_mix, draw_patients


@dataclass(frozen=True)
class Protocol:
    """One MR sequence as sites set it up: uniform ranges, times in ms, flip angle in degrees."""

    share: float  # of the sites, relative to the other protocols
    tr: Range
    te: Range
    flip: Range = (90.0, 90.0)
    gadolinium: bool = False
    inversion: bool = False  # TI nulls CSF
    spoiled: bool = False  # gradient echo


@dataclass(frozen=True)
class SiteModel(CaseMix):
    """Distributions from which a synthetic hospital is drawn; ranges are uniform."""

    three_tesla: float = 0.4  # share of sites at 3 T, the others at 1.5 T
    t1_spin_echo: Protocol = Protocol(0.08, (450.0, 650.0), (9.0, 18.0))
    t1_gadolinium: Protocol = Protocol(0.45, (450.0, 650.0), (9.0, 18.0), gadolinium=True)
    t2_spin_echo: Protocol = Protocol(0.15, (3500.0, 6000.0), (80.0, 110.0))
    flair: Protocol = Protocol(0.20, (8000.0, 11000.0), (90.0, 130.0), inversion=True)
    spgr: Protocol = Protocol(0.12, (15.0, 30.0), (3.0, 6.0), (20.0, 30.0), gadolinium=True, spoiled=True)
    mr_noise: Range = (0.01, 0.05)  # Rician sigma over the reference tissue's signal
    bias_field: Range = (0.0, 0.4)  # peak to peak non-uniformity: 0.2 spans 0.90 to 1.10
    ct_blur: Range = (0.5, 1.6)  # mm, standard deviation of the reconstruction kernel
    ct_noise: Range = (2.0, 6.0)  # HU
    grey_white: Range = (8.0, 13.0)  # HU, grey minus white matter
    field_of_view: Range = (215.0, 250.0)  # mm
    tilt: float = 8.0  # degrees, standard deviation of a patient's head rotation
    class_share: tuple[float, float, float, float] = (0.27, 0.25, 0.23, 0.25)  # over all sites

    @property
    def protocols(self) -> dict[str, Protocol]:
        """The sequences by name, in the order of `Site.protocol`."""
        return {
            "T1 spin echo": self.t1_spin_echo,
            "T1 spin echo + Gd": self.t1_gadolinium,
            "T2 spin echo": self.t2_spin_echo,
            "FLAIR": self.flair,
            "SPGR + Gd" if self.spgr.gadolinium else "SPGR": self.spgr,
        }


class Site(NamedTuple):
    """One hospital: scalars but for `class_mix`."""

    field: jax.Array  # T, 1.5 or 3
    protocol: jax.Array  # int32, index into `SiteModel.protocols`
    tr: jax.Array  # ms
    te: jax.Array  # ms
    flip: jax.Array  # degrees
    mr_noise: jax.Array  # share of the reference tissue's signal
    bias_field: jax.Array  # peak to peak
    ct_blur: jax.Array  # mm
    ct_noise: jax.Array  # HU
    grey_white: jax.Array  # HU
    field_of_view: jax.Array  # mm
    class_mix: jax.Array  # [4]
    patients: jax.Array  # int32


def draw_site(model: SiteModel, key: jax.Array) -> Site:
    """Returns one hospital drawn from its key."""
    traits, sequence, mix, size = jax.random.split(key, 4)
    u = jax.random.uniform(traits, (10,), jnp.float32)
    share = np.asarray([p.share for p in model.protocols.values()], np.float32)
    protocol = jax.random.categorical(sequence, jnp.log(share)).astype(jnp.int32)

    def timing(name: str, u: jax.Array) -> jax.Array:
        ranges = np.asarray([getattr(p, name) for p in model.protocols.values()], np.float32)
        return between(jnp.asarray(ranges)[protocol], u)

    return Site(
        field=jnp.where(u[0] < model.three_tesla, 3.0, 1.5).astype(jnp.float32),
        protocol=protocol,
        tr=timing("tr", u[1]),
        te=timing("te", u[2]),
        flip=timing("flip", u[3]),
        mr_noise=between(model.mr_noise, u[4]),
        bias_field=between(model.bias_field, u[5]),
        ct_blur=between(model.ct_blur, u[6]),
        ct_noise=between(model.ct_noise, u[7]),
        grey_white=between(model.grey_white, u[8]),
        field_of_view=between(model.field_of_view, u[9]),
        class_mix=draw_mix(model, mix),
        patients=draw_patients(model, size),
    )
