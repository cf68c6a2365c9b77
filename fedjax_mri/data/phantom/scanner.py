"""From tissue to pictures: a CT in HU and an MR magnitude of the same slice."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e

from .lesions import Lesion, LesionModel
from .physics import (
    ADENOMA,
    CSF,
    GLIOMA,
    GREY,
    MENINGIOMA,
    NAMES,
    NECROSIS,
    OEDEMA,
    RELAXIVITY,
    WHITE,
    Properties,
    column,
    enhanced_t1,
    inversion_recovery,
    null_time,
    properties,
    spin_echo,
    spoiled_gradient_echo,
)
from .site import Site, SiteModel

CT_WINDOW = (-100.0, 300.0)  # HU, shown as 0..1
LESIONS = np.isin(np.arange(len(NAMES)), [GLIOMA, MENINGIOMA, ADENOMA, NECROSIS, OEDEMA])  # bool [T]
TUMOURS = np.isin(np.arange(len(NAMES)), [GLIOMA, MENINGIOMA, ADENOMA])  # bool [T]


def patient_tissues(key: jax.Array, site: Site, lesion: Lesion, model: LesionModel) -> Properties:
    """Returns the tissue table of one patient at one site.

    Tumours vary more than brain, and with less contrast they are more like white matter.
    """
    table, normal = properties(site.field), jax.random.normal(key, (4, len(NAMES)), jnp.float32)
    spread = np.where(LESIONS, 0.12, 0.03).astype(np.float32)
    contrast = np.where(LESIONS, model.contrast, 1.0).astype(np.float32)
    hu = table.hu[WHITE] + contrast * (table.hu - table.hu[WHITE]) + column("hu_sd") * normal[0]
    hu = hu.at[GREY].set(hu[WHITE] + site.grey_white)
    t1 = table.t1[WHITE] * (table.t1 / table.t1[WHITE]) ** contrast * jnp.exp(spread * normal[1])
    t2 = table.t2[WHITE] * (table.t2 / table.t2[WHITE]) ** contrast * jnp.exp(spread * normal[2])
    uptake = jnp.where(TUMOURS, lesion.enhancement * model.contrast, 1.0) * jnp.exp(0.15 * normal[3])
    return Properties(hu, t1, t2, table.pd, table.gadolinium * uptake)


def tissue_signals(site: Site, tissues: Properties, model: SiteModel) -> tuple[jax.Array, jax.Array]:
    """Returns the MR signal of every tissue [T] by the site's sequence, and the signal to which its noise refers.

    The latter is that of one tissue.
    """
    relaxivity = jnp.where(site.field > 2.0, RELAXIVITY[1], RELAXIVITY[0])
    signals, references = [], []
    for protocol in model.protocols.values():
        t1 = enhanced_t1(tissues.t1, tissues.gadolinium, relaxivity) if protocol.gadolinium else tissues.t1
        if protocol.spoiled:
            signal = spoiled_gradient_echo(t1, tissues.t2, tissues.pd, site.tr, site.te, site.flip)
        elif protocol.inversion:
            null = null_time(tissues.t1[CSF], site.tr)
            signal = inversion_recovery(t1, tissues.t2, tissues.pd, site.tr, site.te, null)
        else:
            signal = spin_echo(t1, tissues.t2, tissues.pd, site.tr, site.te)
        signals.append(signal)
        t2_weighted = protocol.tr[0] > 2000.0 and not protocol.inversion
        references.append(signal[CSF if t2_weighted else WHITE])
    return jnp.stack(signals)[site.protocol], jnp.stack(references)[site.protocol]


def mix(tissue: tuple[jax.Array, ...], values: jax.Array) -> jax.Array:
    """Returns the sum of tissue memberships [S, S] times their values [T], as partial volume has it."""
    return sum((share * values[i] for i, share in enumerate(tissue)), start=jnp.float32(0.0))  # type: ignore[return-value]


def rician(key: jax.Array, signal: jax.Array, sigma: jax.Array) -> jax.Array:
    """Returns the magnitude of a signal with complex Gaussian noise of standard deviation `sigma` per channel."""
    noise = sigma * jax.random.normal(key, (2, *signal.shape), jnp.float32)
    return jnp.sqrt(jnp.square(signal + noise[0]) + jnp.square(noise[1]))


def rician_mean(signal: jax.Array, sigma: jax.Array) -> jax.Array:
    """Returns what `rician` gives on average: sigma sqrt(pi/2) L_{1/2}(-signal^2 / 2 sigma^2) (Rice 1945).

    Of no signal it is the noise floor, 1.25 sigma; of a strong one hardly more than the signal.
    """
    sigma = jnp.maximum(sigma, 1e-4)  # hardly any noise, lest the quotient is one of zeros
    power = jnp.square(signal / sigma) / 2
    laguerre = (1 + power) * i0e(power / 2) + power * i1e(power / 2)
    return sigma * np.float32(np.sqrt(np.pi / 2)) * laguerre


def bias_field(field: jax.Array, strength: jax.Array) -> jax.Array:
    """Returns the multiplicative receive field of a standard normal one.

    `strength` 0.2 spans 0.90 to 1.10 at two sd.
    """
    return jnp.exp(0.25 * strength * jnp.clip(field, -2.0, 2.0))


def scan_mr(
    key: jax.Array, tissue: tuple[jax.Array, ...], signals: jax.Array, reference: jax.Array, site: Site, bias: jax.Array
) -> jax.Array:
    """Returns the MR magnitude [S, S], CSF at full relaxation being 1."""
    clean = mix(tissue, signals) * bias_field(bias, site.bias_field)
    return rician(key, clean, site.mr_noise * reference)


def scan_ct(key: jax.Array, tissue: tuple[jax.Array, ...], hu: jax.Array, site: Site, pixel: jax.Array) -> jax.Array:
    """Returns a CT in HU [S, S] with the kernel's blur and the noise of filtered back projection.

    The power of the noise grows with frequency.
    """
    clean = mix(tissue, hu)
    size = clean.shape[0]
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]).astype(np.float32)
    blur = jnp.exp(-2.0 * jnp.square(jnp.pi * frequency * site.ct_blur / pixel))
    ramp = blur * np.sqrt(frequency)
    gain = site.ct_noise * jax.lax.rsqrt(jnp.mean(jnp.square(ramp)))
    white = jax.random.normal(key, clean.shape, jnp.float32)
    return filtered(clean, blur) + filtered(white, gain * ramp)


def filtered(image: jax.Array, response: jax.Array) -> jax.Array:
    """Returns an image [S, S] filtered by a real frequency response [S, S/2+1]."""
    return jnp.fft.irfft2(jnp.fft.rfft2(image) * response.astype(jnp.complex64), s=image.shape)


def show_ct(hu: jax.Array) -> jax.Array:
    """Returns HU as the window of the display shows them, 0 to 1."""
    return jnp.clip((hu - CT_WINDOW[0]) / (CT_WINDOW[1] - CT_WINDOW[0]), 0.0, 1.0)


def show_mr(magnitude: jax.Array) -> jax.Array:
    """Returns the magnitude [S, S] over what is shown as white, 0 to 1."""
    return jnp.clip(magnitude / white_mr(magnitude), 0.0, 1.0)


def white_mr(magnitude: jax.Array) -> jax.Array:
    """Returns 1.8 times the intensity-weighted mean of an MR [S, S], which no empty background can move."""
    return 1.8 * jnp.mean(jnp.square(magnitude)) / jnp.mean(magnitude)
