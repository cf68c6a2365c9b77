"""What one modality must look like given the other, from the CT, the MR and the site's signal per tissue alone.

`signals` [B, T] is what each tissue of `data/phantom/physics.py` gives by the sequence of the batch's site, in the
units of its MR. No true tissue map is asked for: what a pixel holds is guessed from the image at hand, and where it
cannot be guessed nothing is claimed.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_mri.data.phantom.physics import (
    AIR,
    CORTICAL,
    CSF,
    DIPLOE,
    FAT,
    GREY,
    MUSCLE,
    NAMES,
    WHITE,
    column,
)

# Tissues that HU tells apart, by rising HU; tumours and blood share theirs with brain, and count as what they look.
DISTINGUISHED = np.array([AIR, FAT, CSF, WHITE, GREY, MUSCLE, DIPLOE, CORTICAL])
KNOTS = column("hu")[DISTINGUISHED]  # HU

BOUNDS = {  # HU: published ranges where there are any, widened to the spread between patients and scanners
    "air": (-1100, -200),
    "fat": (-110, -40),
    "muscle": (40, 60),
    "cortical bone": (700, 3000),
    "diploe": (300, 700),
    "csf": (0, 15),
    "grey matter": (32, 45),
    "white matter": (20, 32),
    "blood": (45, 65),
    "glioma": (18, 37),
    "meningioma": (43, 60),
    "adenoma": (29, 47),
    "necrosis": (4, 16),
    "oedema": (10, 23),
    "calcification": (100, 600),
    "haematoma": (40, 90),
}
LOW, HIGH = np.asarray([BOUNDS[name] for name in NAMES], np.float32).T  # [T]
TOLERANCE = 0.08  # of MR in 0..1, around a tissue's signal: noise, bias field and the spread between patients


def memberships(hu: jax.Array) -> jax.Array:
    """Returns the shares of the tissues in DISTINGUISHED, hu [B, H, W, 1] -> [B, H, W, 8], adding to 1.

    Hat functions on the HU axis: all of a tissue at its own HU, falling linearly to nothing at its neighbours', which
    is what partial volume of the two would show.
    """
    lower, upper = (KNOTS[part].reshape(1, 1, 1, -1) for part in (slice(None, -1), slice(1, None)))
    risen = jnp.clip((hu - lower) / (upper - lower), 0.0, 1.0)  # [B, H, W, 7]
    ends = jnp.ones_like(hu), jnp.zeros_like(hu)
    return jnp.concatenate([ends[0], risen], -1) - jnp.concatenate([risen, ends[1]], -1)


def expected_mr(hu: jax.Array, signals: jax.Array) -> jax.Array:
    """Returns the MR that the tissue in the CT would give, at most 1.

    hu [B, H, W, 1], signals [B, T] -> [B, H, W, 1].

    E(p) = sum over tissues t of m_t(HU(p)) s_t: bone dark, soft tissue by the site's sequence.
    """
    shown = jnp.einsum("bhwt,bt->bhw", memberships(hu), signals[:, DISTINGUISHED])
    return jnp.minimum(shown, 1.0)[..., None]


def beyond_bounds(hu: jax.Array, mr: jax.Array, signals: jax.Array, window: tuple[float, float]) -> jax.Array:
    """Returns how far a made CT lies from the HU of any tissue that the MR allows, over the window's width; [B].

    mean over p of min over {t: |MR(p) - s_t| <= TOLERANCE} of the distance of HU(p) from [low_t, high_t], and 0 where
    the MR allows no tissue. Dark is air or bone, and either will do. hu, mr [B, H, W, 1]; signals [B, T]; `window` in
    HU, to which bounds are clipped as the made CT is.
    """
    low, high = (np.clip(ends, *window).reshape(1, 1, 1, -1) for ends in (LOW, HIGH))
    distance = jnp.maximum(jnp.maximum(low - hu, hu - high), 0.0)
    allowed = jnp.abs(mr - signals[:, None, None, :]) <= TOLERANCE
    nearest = jnp.where(allowed, distance, jnp.inf).min(-1)
    nearest = jnp.where(allowed.any(-1), nearest, 0.0)
    return nearest.mean((1, 2)) / (window[1] - window[0])
