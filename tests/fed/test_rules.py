"""Robust rules: against NumPy in float64, known answers, breakdown points, memory, and what each refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import plain_rules as plain
import pytest
from simulations import SIZES, classifier, images, simulation

from fedjax_mri.core import trees
from fedjax_mri.core.errors import UserError
from fedjax_mri.fed.algorithms.scaffold import Scaffold
from fedjax_mri.fed.client.local import step_counts
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import check_simulation
from fedjax_mri.fed.sampling import Everyone, Population, Uniform
from fedjax_mri.fed.uplink import vectors
from fedjax_mri.fed.uplink.contract import Reduce, RoundContext, Update
from fedjax_mri.fed.uplink.order import comparisons, sum_by_rank
from fedjax_mri.fed.uplink.preaggregators.arc import ARC
from fedjax_mri.fed.uplink.preaggregators.bucketing import Bucketing
from fedjax_mri.fed.uplink.preaggregators.clipping import Clipping
from fedjax_mri.fed.uplink.preaggregators.nnm import NNM
from fedjax_mri.fed.uplink.reductions.bulyan import Bulyan
from fedjax_mri.fed.uplink.reductions.caf import CAF
from fedjax_mri.fed.uplink.reductions.centred_clipping import CentredClipping
from fedjax_mri.fed.uplink.reductions.foolsgold import FoolsGold
from fedjax_mri.fed.uplink.reductions.geometric_median import GeometricMedian
from fedjax_mri.fed.uplink.reductions.krum import Krum, MultiKrum
from fedjax_mri.fed.uplink.reductions.matrix import apply
from fedjax_mri.fed.uplink.reductions.mda import MDA
from fedjax_mri.fed.uplink.reductions.meamed import MeaMed
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.reductions.monna import MoNNA
from fedjax_mri.fed.uplink.reductions.norm_bound import NormBound
from fedjax_mri.fed.uplink.reductions.smea import SMEA
from fedjax_mri.fed.uplink.reductions.trimmed_mean import TrimmedMean
from fedjax_mri.fed.uplink.settings import UplinkSettings
from fedjax_mri.fed.uplink.stages.momentum import Momentum
from fedjax_mri.run.config import LocalTraining

PLACES, WIDTH = 13, 6
AT = RoundContext(jnp.int32(0), jax.random.key(0), jnp.float32(9), jnp.float32(9))


def both(kind, reference, **settings):
    """The settings of a rule, and its reference with the same numbers."""
    return UplinkSettings(reduce=kind(**settings)), functools.partial(reference, **settings)


def faulty(count: int, kind, reference):
    return UplinkSettings(reduce=kind(count)), functools.partial(reference, f=count)


def mixed(before, reduce, reference):
    return UplinkSettings(before=before, reduce=reduce), reference


CASES = {
    "median": (UplinkSettings(reduce=Median()), plain.median),
    "trimmed mean": faulty(2, TrimmedMean, plain.trimmed_mean),
    "meamed": faulty(3, MeaMed, plain.meamed),
    "krum": faulty(2, Krum, plain.krum),
    "multi-krum": faulty(3, MultiKrum, plain.multi_krum),
    "multi-krum, best 4": (UplinkSettings(reduce=MultiKrum(2, 4)), lambda x: plain.multi_krum(x, 2, 4)),
    "bulyan": faulty(1, Bulyan, plain.bulyan),
    "geometric median": both(GeometricMedian, plain.geometric_median, smooth=0.2, steps=5),
    "centred clipping": (
        UplinkSettings(reduce=CentredClipping(2.0, 3)),
        lambda x: plain.centred_clipping(x, np.zeros(WIDTH), 2.0, 3),
    ),
    "mda": faulty(2, MDA, plain.mda),
    "smea": faulty(2, SMEA, plain.smea),
    "caf": faulty(2, CAF, plain.caf),
    "monna": (UplinkSettings(reduce=MoNNA(2, 0)), lambda x: plain.monna(x, 2, 0)),
    "norm bound": both(NormBound, plain.norm_bound, bound=2.0),
    "foolsgold": (UplinkSettings(reduce=FoolsGold(PLACES)), lambda x: plain.foolsgold(x, x)),
    "clipped, mixed, trimmed": mixed(
        (Clipping(5.0), NNM(2)),
        TrimmedMean(2),
        lambda x: plain.trimmed_mean(plain.nnm(plain.clipping(x, 5.0), 2), 2),
    ),
    "mixed, clipped, krum": mixed((NNM(2), ARC(2)), Krum(2), lambda x: plain.krum(plain.arc(plain.nnm(x, 2), 2), 2)),
    "mixed, adaptively clipped, smea": mixed(
        (NNM(3), ARC(3)), SMEA(2), lambda x: plain.smea(plain.arc(plain.nnm(x, 3), 3), 2)
    ),
}


@functools.cache
def finisher(settings: UplinkSettings):
    reduce = settings.build().reduce
    return reduce, jax.jit(reduce.finish)


def reduced(settings: UplinkSettings, rows: np.ndarray, places=None, size: int = PLACES, state=None):
    """The aggregate of rows [n, P] that came at `places` of a cohort, and the state after it; two leaves a row."""
    reduce, finish = finisher(settings)
    one = Update(halves(jnp.zeros(rows.shape[1])), (), jnp.float32(0))
    places = np.arange(len(rows)) if places is None else places
    several = Update(halves(jnp.asarray(rows, jnp.float32)), (), 1 + jnp.arange(len(rows), dtype=jnp.float32))
    total = reduce.zero(one, size)
    total = reduce.add(total, several, jnp.asarray(places, jnp.int32)) if len(rows) else total
    aggregate, after = finish(total, reduce.init(one) if state is None else state, AT)
    return np.concatenate(jax.tree.leaves(aggregate.delta)), after


def halves(x):
    return {"a": x[..., :2], "b": x[..., 2:]}


def draw(seed: int, count: int = PLACES) -> np.ndarray:
    """Rows around a common mean, of which two are far away."""
    rows = 0.5 + np.random.default_rng(seed).normal(size=(count, WIDTH))
    rows[[1, 4]] *= 6
    return rows.astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_a_rule_is_what_numpy_says_it_is(case: str) -> None:
    """Of all rows, of those that came to a cohort, and of rows that are not finite, which are rows of zeros."""
    settings, reference = CASES[case]
    came = np.array([0, 2, 3, 4, 6, 7, 8, 10, 11])
    for seed in range(3):
        rows = draw(seed)
        np.testing.assert_allclose(reduced(settings, rows)[0], reference(rows.astype(float)), rtol=2e-4, atol=2e-5)
        part = rows[came]
        np.testing.assert_allclose(
            reduced(settings, part, came)[0], reference(part.astype(float)), rtol=2e-4, atol=2e-5
        )
        bad, zeroed = rows.copy(), rows.astype(float)
        for place, value in ((4, np.nan), (9, np.inf), (11, -3e30)):
            bad[place, seed], zeroed[place] = value, 0
        np.testing.assert_allclose(reduced(settings, bad)[0], reference(zeroed), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_too_few_updates_change_nothing(case: str) -> None:
    """Neither the model nor what a rule remembers: nobody, or one less than the rule needs."""
    settings, _ = CASES[case]
    reduce = settings.build().reduce
    for count in {0, reduce.rule.min_updates - 1}:
        found, state = reduced(settings, draw(0)[:count])
        assert not found.any() and not any(np.any(leaf) for leaf in jax.tree.leaves(state))


SMALL = np.arange(1.0, 10).reshape(3, 3)
KNOWN = {  # first value of the answer, to which 0, 1, 2 are added
    "geometric median": (GeometricMedian(0.1, 3), 3.78788764),
    "multi-krum": (MultiKrum(1), 2.5),
    "mda": (MDA(1), 2.5),
    "meamed": (MeaMed(1), 2.5),
    "smea": (SMEA(1), 2.5),
    "monna": (MoNNA(1, 1), 2.5),
    "caf": (CAF(1), 4.0),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_answers(case: str) -> None:
    settings, first = KNOWN[case]
    found, _ = reduced(UplinkSettings(reduce=settings), SMALL, size=3)
    np.testing.assert_allclose(found, first + np.arange(3), rtol=1e-6)


def test_the_filter_takes_all_weight_of_attackers_that_lie_at_different_distances() -> None:
    rows = draw(3)
    rows[:3] *= np.array([[1e2], [1e3], [1e4]])
    found, _ = reduced(UplinkSettings(reduce=CAF(3)), rows)
    assert np.linalg.norm(found) < 2 * np.linalg.norm(rows[3:], axis=1).max()


@pytest.mark.parametrize(
    ("kind", "holds", "distance"), [(Krum, 10, 10), (TrimmedMean, 11, 1e6), (Median, 11, 1e6), (Bulyan, 5, 10)]
)
def test_breakdown_points(kind, holds: int, distance: float) -> None:
    """Of 23, so many colluding clients do not move the result, and one more does."""

    def error(bad: int) -> float:
        rows = np.random.default_rng(3).normal(size=(23, WIDTH))
        rows[:bad] = distance
        one = Update(jnp.zeros(WIDTH), (), jnp.float32(0))
        rule = (kind() if kind is Median else kind(min(bad, 11))).build().rule
        found = jax.jit(vectors.vectors_of)(jnp.asarray(rows, jnp.float32), jnp.ones(23, bool))
        return float(np.abs(jax.jit(functools.partial(apply, rule))(found, rule.init(one), AT)[0]).max())

    assert error(holds) < 3
    if kind is not Bulyan:
        assert error(holds + 1) > distance / 3
    least = 1 if kind is Median else kind(holds).build().rule.min_updates
    assert least <= 23 and (kind is Median or kind(holds + 1).build().rule.min_updates > 23)


def test_distances_survive_what_all_rows_share_and_one_row_that_is_huge() -> None:
    """Rows near each other and far from zero: a Gram matrix of the rows themselves has an error above 1 here."""
    rng = np.random.default_rng(0)
    rows = (100 * rng.normal(size=2000) + 0.01 * rng.normal(size=(9, 2000))).astype(np.float32)
    rows[3] = 1e12
    wanted = plain.gaps(rows.astype(float)) ** 2
    found = np.asarray(vectors.squared_distances(vectors.vectors_of(jnp.asarray(rows), jnp.ones(9, bool))))
    others = ~np.eye(9, dtype=bool)
    np.testing.assert_allclose(found[others], wanted[others], rtol=3e-6)
    rows = np.delete(rows, 3, 0)
    naive = rows @ rows.T
    error = np.diag(naive)[:, None] + np.diag(naive) - 2 * naive
    wanted = plain.gaps(rows.astype(float)) ** 2 + np.eye(8)
    assert np.abs((error + np.eye(8)) / wanted - 1).max() > 0.5


@pytest.mark.parametrize("size", [1, 2, 5, 14, 23, 33])
def test_sorting_networks_sort(size: int, monkeypatch) -> None:
    block = np.random.default_rng(size).normal(size=(size, 50)).astype(np.float32)
    present, weights = jnp.ones(size, bool), jnp.arange(size, dtype=jnp.float32)
    for by_size in (False, True):
        ordered = np.take_along_axis(block, np.argsort(np.abs(block) if by_size else block, 0), 0)
        found = sum_by_rank(jnp.asarray(block), present, weights, by_size)
        np.testing.assert_allclose(found, np.asarray(weights) @ ordered, rtol=1e-4, atol=1e-4)
    assert (len(comparisons(14)), len(comparisons(64))) == (53, 543)


def test_blocks_change_nothing(monkeypatch) -> None:
    """Leaves read in one piece, or in pieces of which the last is shorter."""
    rows, settings = draw(1), CASES["clipped, mixed, trimmed"][0]
    whole, _ = reduced(settings, rows)
    monkeypatch.setattr(vectors, "BLOCK", 3 * PLACES)
    finisher.cache_clear()
    np.testing.assert_allclose(reduced(settings, rows)[0], whole, rtol=1e-5)
    finisher.cache_clear()


def test_what_centred_clipping_and_foolsgold_remember() -> None:
    """The result of the round before; the sums of clients' updates, in which an absent client stays what it was."""
    settings, radius = UplinkSettings(reduce=CentredClipping(1.0)), 1.0
    centre, state = np.zeros(WIDTH), None
    for seed in range(3):
        centre = plain.centred_clipping(draw(seed).astype(float), centre, radius)
        found, state = reduced(settings, draw(seed), state=state)
        np.testing.assert_allclose(found, centre, rtol=1e-4, atol=1e-5)
    settings, history, state = UplinkSettings(reduce=FoolsGold(PLACES)), np.zeros((PLACES, WIDTH)), None
    for seed, came in enumerate((np.arange(PLACES), np.delete(np.arange(PLACES), [2, 5]), np.arange(PLACES))):
        rows = draw(seed)[came]
        history[came] += rows
        found, state = reduced(settings, rows, came, state=state)
        np.testing.assert_allclose(found, plain.foolsgold(rows, history[came]), rtol=2e-3, atol=1e-4)


def test_foolsgold_takes_no_vote_from_sybils() -> None:
    """Three of eight clients send the same: the result is that of the other five."""
    rows = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    rows[5:] = 3
    found, _ = reduced(UplinkSettings(reduce=FoolsGold(8)), rows, size=8)
    assert np.abs(found).max() < 0.8 and np.corrcoef(found, rows[:5].mean(0))[0, 1] > 0.9


def test_buckets_are_means_of_different_clients_each_round() -> None:
    settings = UplinkSettings(before=(Bucketing(2),), reduce=TrimmedMean(0))
    rows = np.eye(6, dtype=np.float32)
    found, _ = reduced(settings, rows, size=6)
    np.testing.assert_allclose(found, rows.mean(0), rtol=1e-6)
    made = vectors.vectors_of(jnp.asarray(draw(0)[:7]), jnp.arange(7) != 2)
    step = Bucketing(2).build()
    draws = [step.change(made, jax.random.key(seed)) for seed in range(2)]
    assert step.places(7) == 4 and not np.array_equal(draws[0].mix, draws[1].mix)
    for one in draws:
        np.testing.assert_array_equal(one.present, [True, True, True, False])
        np.testing.assert_allclose(np.asarray(one.mix)[:3].sum(0), [0.5, 0.5, 0, 0.5, 0.5, 0.5, 0.5, 0])


def checked(settings: UplinkSettings, **changes) -> None:
    sim = simulation(classifier(), images(), reduce=settings.build().reduce)
    check_simulation(sim._replace(**changes), Plan().resolve())


REFUSED = {
    "krum faulty=4 needs 11": (UplinkSettings(reduce=Krum(4)), {}),
    "bulyan: faulty=2 needs 11": (UplinkSettings(reduce=Bulyan(2)), {}),
    "trimmedmean: faulty=5 needs 11": (UplinkSettings(reduce=TrimmedMean(5)), {}),
    "multikrum: faulty=1 needs 10": (UplinkSettings(reduce=MultiKrum(1, 10)), {}),
    "krum: faulty=2 needs 7 updates or more, a cohort gives it 5": (
        UplinkSettings(before=(Bucketing(2),), reduce=Krum(2)),
        {},
    ),
    "before nnm: faulty=5 needs more than 10": (UplinkSettings(before=(NNM(5),), reduce=Median()), {}),
    "cohort gives it 4": (UplinkSettings(reduce=Krum(1)), {"sampler": Uniform(4).build(Population(SIZES))}),
    "which no rule defends": (UplinkSettings(reduce=Median()), {"algorithm": Scaffold().build()}),
    "BatchNorm's statistics": (UplinkSettings(reduce=CentredClipping()), {"task": classifier(norm="batch")}),
    "clients=5: there are 9": (UplinkSettings(reduce=FoolsGold(5)), {}),
    "choose a client from 0 to 8": (UplinkSettings(reduce=MoNNA(1, 9)), {}),
    "whose each update is": (UplinkSettings(reduce=MoNNA()), {"sampler": Uniform(9).build(Population(SIZES))}),
    "and no uplink.before": (UplinkSettings(before=(NNM(),), reduce=FoolsGold(9)), {}),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_cannot_be_right_is_refused(says: str) -> None:
    settings, changes = REFUSED[says]
    with pytest.raises(UserError, match=says.replace("krum faulty", "krum: faulty")):
        checked(settings, **changes)


@pytest.mark.parametrize("settings", [Krum(-1), MultiKrum(1, -1), NNM(-1), Bucketing(0), NormBound(0.0), FoolsGold()])
def test_bad_numbers_are_refused(settings) -> None:
    with pytest.raises(UserError, match="uplink"):
        before, reduce = ((settings,), Median()) if isinstance(settings, NNM | Bucketing) else ((), settings)
        UplinkSettings(before=before, reduce=reduce).build()


def test_nothing_comes_before_a_sum() -> None:
    with pytest.raises(UserError, match="of which mean sees the sum alone"):
        UplinkSettings(before=(NNM(),)).build()


def test_too_many_subsets_are_refused() -> None:
    sampler = Everyone().build(Population(np.ones(40, np.int32)))
    with pytest.raises(UserError, match="mda: faulty=10 of 40 updates leaves 847,660,528 subsets"):
        checked(UplinkSettings(reduce=MDA(10)), sampler=sampler)


@pytest.mark.parametrize("case", ["clipped, mixed, trimmed", "bulyan", "centred clipping"])
def test_memory_beyond_the_rows_is_bounded(case: str) -> None:
    """64 updates of 8 million values, 2 GB: what a rule needs besides is far below a copy of them."""
    reduce: Reduce = CASES[case][0].build().reduce
    one = Update({"a": jax.ShapeDtypeStruct((2000, 4000), jnp.float32)}, (), jax.ShapeDtypeStruct((), jnp.float32))
    rows = jax.eval_shape(lambda: reduce.zero(one, 24))
    state = jax.eval_shape(lambda: reduce.init(one))
    memory = jax.jit(reduce.finish).lower(rows, state, AT).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 300e6 < trees.nbytes(rows) / 2


def test_few_local_steps_are_the_first_of_an_epoch() -> None:
    sizes = np.array([0, 5, 17, 100])
    whole, few = (LocalTraining(epochs=2, batch=4, steps=steps).build(1) for steps in (0, 3))
    np.testing.assert_array_equal(step_counts(few, sizes), [0, 3, 3, 3])
    np.testing.assert_array_equal(step_counts(whole, sizes), [0, 4, 10, 50])
    key, size = jax.random.key(0), jnp.int32(17)
    first = [one.batches(2, 4).draw(key, jnp.int32(1), jnp.int32(0), size, None)[0] for one in (whole, few)]
    np.testing.assert_array_equal(*first)
    with pytest.raises(UserError, match=r"local\.steps=-1"):
        LocalTraining(steps=-1).build(1)


def test_momentum_is_the_moving_mean_of_changes() -> None:
    stage = Momentum(0.8).build()
    sent = state = stage.init_client(Update(jnp.zeros(3), (), jnp.float32(0)))
    for number in range(3):
        update, state, _ = stage.client(Update(jnp.full(3, number + 1.0), (), jnp.float32(1)), state, None)
        sent = 0.8 * sent + 0.2 * (number + 1)
        np.testing.assert_allclose(update.delta, sent, rtol=1e-6)
    sim = simulation(classifier(norm="batch"), images(), (stage,))
    with pytest.raises(UserError, match="earlier updates are no change of BatchNorm"):
        check_simulation(sim, Plan().resolve())


def test_the_filter_takes_nothing_of_rows_far_away() -> None:
    """It takes a hundred steps until the second one has no weight; rounding must not make a weight negative."""
    rows, rng = np.random.default_rng(0).normal(size=(11, 1000)), np.random.default_rng(1)
    rows[-2:] += np.array([[1e4], [2e4]]) * rng.normal(size=1000)
    found, _ = reduced(UplinkSettings(reduce=CAF(2)), rows, size=11)
    np.testing.assert_allclose(found, rows[:-2].mean(0), atol=0.05)
