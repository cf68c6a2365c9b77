"""Tissue errors and lesions, on heads drawn by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_mri.metrics import translation as m

RULE = m.LesionRule()
S = 48
WITHIN = np.array([0, 1, 1], np.float32)  # air, brain, tumour
row, column = np.mgrid[:S, :S]
HEAD = (row - 24) ** 2 + (column - 24) ** 2 < 20**2
LESION = (row - 24) ** 2 + (column - 16) ** 2 < 5**2
measure = jax.jit(m.lesion_tally, static_argnums=5)


def patients(lesion, seed=0):
    """Images [B, S, S, 1] of a noisy brain in air; lesion [B] in the image's units above the brain's .5."""
    noise = 0.02 * np.random.default_rng(seed).normal(size=(len(lesion), S, S))
    image = 0.5 * HEAD + LESION * np.asarray(lesion)[:, None, None] + HEAD * noise
    return image[..., None].astype(np.float32)


def masks(ill):
    return (LESION * np.asarray(ill)[:, None, None])[..., None].astype(np.float32)


def brains(count):
    tissue = np.stack([~HEAD, HEAD & ~LESION, HEAD & LESION], -1).astype(np.float32)
    return m.brain(jnp.asarray(np.stack([tissue] * count)), jnp.asarray(WITHIN), RULE)


def tally(made, truth, ill, weight=None):
    weight = np.ones(len(ill), np.float32) if weight is None else weight
    return measure(made, truth, masks(ill), brains(len(ill)), weight, RULE)


def test_tissue_error_against_a_loop():
    rng = np.random.default_rng(0)
    made, truth = rng.normal(0, 100, (2, 3, 5, 4, 1)).astype(np.float32)
    tissue = rng.dirichlet(np.ones(3), (3, 5, 4)).astype(np.float32)
    tissue = np.concatenate([tissue, np.zeros((3, 5, 4, 1), np.float32)], -1)
    weight = np.array([1, 2, 0], np.float32)
    spoilt = made.copy()
    spoilt[2] = np.nan
    t = jax.jit(m.tissue_tally)(spoilt, truth, tissue, weight)
    share = np.float64(tissue) * weight[:, None, None, None]
    error = np.float64(made - truth)
    expected = (np.abs(error) * share).sum((0, 1, 2))[:3] / share.sum((0, 1, 2))[:3]
    np.testing.assert_allclose(m.tissue_error(t)[:3], expected, rtol=1e-5)
    np.testing.assert_allclose(
        m.tissue_bias(t)[:3], (error * share).sum((0, 1, 2))[:3] / share.sum((0, 1, 2))[:3], rtol=1e-4
    )
    assert np.isnan(m.tissue_error(t)[3])
    assert list(m.tissue_summary(t, ("a", "b", "c", "d"))) == ["a", "b", "c"]
    halves = jax.tree.map(
        jnp.add, *(m.tissue_tally(made[p], truth[p], tissue[p], weight[p]) for p in (slice(1), slice(1, 2)))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3), t, halves)


def test_a_lesion_is_kept_faded_or_lost():
    ill = [1, 1, 0]
    truth = patients([0.3, -0.3, 0.0])
    figures = [
        m.lesion_summary(tally(made, truth, ill)) for made in (truth, patients([0.15, -0.15, 0]), patients([0, 0, 0]))
    ]
    assert figures[0]["lesion Dice"] == pytest.approx(figures[0]["lesion Dice of the true image"], rel=1e-6)
    assert figures[0]["lesion Dice"] > 0.8
    assert [f["contrast kept"] for f in figures] == pytest.approx([1, 0.5, 0], abs=0.02)
    assert figures[1]["lesion Dice"] > 0.8 and figures[2]["lesion Dice"] < 0.05
    assert all(f["hallucination rate"] == 0 and f["false positives in true images"] == 0 for f in figures)


def test_a_lesion_made_up_is_counted_in_the_healthy_alone():
    ill = [0, 0, 0, 0, 1]
    truth, made = patients([0, 0, 0, 0.3, 0.3]), patients([0.3, 0, 0, 0.3, 0.3])
    t = tally(made, truth, ill)
    assert (t.healthy, t.hallucinated, t.mistaken, t.lesions) == (4, 1, 1, 1)
    assert m.lesion_summary(t)["hallucination rate"] == 0.25
    padded = tally(made, truth, ill, np.array([0, 1, 1, 1, 1], np.float32))
    assert (padded.healthy, padded.hallucinated) == (3, 0)


def test_grey_values_outside_the_brain_change_nothing():
    truth = patients([0.3, 0])
    bone = np.where(HEAD[..., None], truth, np.float32(9))
    segment = jax.jit(m.segment, static_argnums=2)
    np.testing.assert_array_equal(*(segment(image, brains(2), RULE) for image in (truth, bone)))
    constant = np.full_like(truth, 0.3)
    assert not segment(constant, brains(2), RULE).any()


def test_contrast_is_lesion_minus_ring():
    image = np.where(LESION, 0.9, np.where(HEAD, 0.4, 0))[None, ..., None].astype(np.float32)
    assert m.contrast(image, masks([1]), brains(1), RULE) == pytest.approx(0.5, abs=1e-5)
    assert np.isnan(m.contrast(image, masks([0]), brains(1), RULE))


def test_tallies_merge_and_nothing_is_nan():
    ill, truth, made = [1, 0, 1], patients([0.3, 0, -0.3]), patients([0.2, 0.3, -0.1])
    whole = tally(made, truth, ill)
    parts = [tally(made, truth, ill, np.float32(w)) for w in ([1, 0, 0], [0, 1, 1])]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, jax.tree.map(jnp.add, *parts))
    empty = m.lesion_summary(tally(made + np.nan, truth, ill, np.zeros(3, np.float32)))
    assert all(np.isnan(value) for value in empty.values())
