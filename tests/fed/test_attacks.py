"""Each attack against its definition in NumPy, and what attacking, data and pairs of settings do."""

import pathlib
import re
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import SIZES, classifier, images, simulation

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.contract import Federation, Test
from fedjax_mri.fed.attack.alie import ALIE, most_deviations
from fedjax_mri.fed.attack.backdoor import Backdoor
from fedjax_mri.fed.attack.boost import Boost
from fedjax_mri.fed.attack.contract import Attackers, attackers
from fedjax_mri.fed.attack.duplicates import Duplicates
from fedjax_mri.fed.attack.gaussian import Gaussian
from fedjax_mri.fed.attack.ipm import IPM
from fedjax_mri.fed.attack.labelflip import LabelFlip
from fedjax_mri.fed.attack.mimic import Mimic
from fedjax_mri.fed.attack.minmax import MinMax, MinSum
from fedjax_mri.fed.attack.noisylabels import NoisyLabels
from fedjax_mri.fed.attack.notfinite import NotFinite
from fedjax_mri.fed.attack.off import Off
from fedjax_mri.fed.attack.optimalalie import OptimalALIE
from fedjax_mri.fed.attack.optimalipm import OptimalIPM
from fedjax_mri.fed.attack.poison import SUCCESS, poisoned, with_success_test
from fedjax_mri.fed.attack.signflip import SignFlip
from fedjax_mri.fed.attack.sybils import Sybils
from fedjax_mri.fed.attack.targetedflip import TargetedFlip
from fedjax_mri.fed.attack.update import with_attack
from fedjax_mri.fed.attack.zero import Zero
from fedjax_mri.fed.engine.plan import Plan
from fedjax_mri.fed.engine.simulation import check_simulation
from fedjax_mri.fed.secure.integer import Integer
from fedjax_mri.fed.uplink.chain import chain
from fedjax_mri.fed.uplink.contract import RoundContext, Sender, Update, Uplink
from fedjax_mri.fed.uplink.preaggregators.clipping import Clipping
from fedjax_mri.fed.uplink.preaggregators.nnm import NNM
from fedjax_mri.fed.uplink.reductions.geometric_median import GeometricMedian
from fedjax_mri.fed.uplink.reductions.matrix import matrix
from fedjax_mri.fed.uplink.reductions.mean import mean
from fedjax_mri.fed.uplink.reductions.median import Median
from fedjax_mri.fed.uplink.reductions.trimmed_mean import TrimmedMean
from fedjax_mri.fed.uplink.weigh import uniformly
from fedjax_mri.run import config, parts
from fedjax_mri.run.assemble import build_method
from fedjax_mri.tasks.task import Model

K, CLASSES = 8, 3
CLIENT = np.array([4, 0, 6, 2, 9, 1, 8, 3], np.int32)  # of each place of the cohort
MARKED = (0, 9)  # clients; at the places 1 and 4
ABSENT = 5  # a place without an update
RNG = np.random.default_rng(5)
ROWS = {"bias": RNG.normal(1, 1, (K, 2)).astype(np.float32), "kernel": RNG.normal(0, 2, (K, 3, 2)).astype(np.float32)}
HONEST = [0, 2, 3, 6, 7]


def flat(tree) -> np.ndarray:
    """Leaves side by side, [P] or [K, P], float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    rows = leaves[0].ndim > 1 and len(leaves[0]) == K and leaves[0].shape == (K, 2)
    return np.concatenate([leaf.reshape(K, -1) if rows else leaf.ravel() for leaf in leaves], -1)


X = flat(ROWS)


def finished(settings, reduce=None, rounds: int = 1):
    """The delta of the last of some equal rounds of a cohort, [P], and the state of the attack."""
    attack = settings.build(CLASSES)
    uplink = with_attack(
        Uplink(uniformly, chain(), reduce or mean()), attack, attackers(Attackers(clients=MARKED), 10)
    ).reduce
    updates = Update(Model(ROWS, {}), (), jnp.ones(K))
    one = jax.tree.map(lambda x: x[0], updates)
    places = jnp.where(jnp.arange(K) == ABSENT, -1, jnp.arange(K))
    at = RoundContext(jnp.int32(0), jax.random.key(0), jnp.float32(K), jnp.float32(K), jnp.asarray(CLIENT))
    added, state = uplink.add(uplink.zero(one, K), updates, places), uplink.init(one)
    finish = jax.jit(uplink.finish)
    for _ in range(rounds):
        aggregate, state = finish(added, state, at)
    return flat(aggregate.delta), state.attack


def under_mean(vector: np.ndarray) -> np.ndarray:
    """The mean of the honest updates and two of the attackers'."""
    return (X[HONEST].sum(0) + 2 * vector) / 7


def middle_of(vector: np.ndarray) -> np.ndarray:
    return np.median(np.concatenate([X[HONEST], vector[None], vector[None]]), 0)


def largest(admissible, top: float = 1e3) -> float:
    """The largest number up to `top` that is admissible, by bisection."""
    low, high = 0.0, top
    for _ in range(100):
        low, high = ((low + high) / 2, high) if admissible((low + high) / 2) else (low, (low + high) / 2)
    return low


def min_max(direction: np.ndarray) -> np.ndarray:
    x, mu = X[HONEST], X[HONEST].mean(0)
    widest = max(np.sum((a - b) ** 2) for a in x for b in x)
    gamma = largest(lambda gamma: max(np.sum((mu + gamma * direction - a) ** 2) for a in x) <= widest)
    return mu + gamma * direction


def min_sum(direction: np.ndarray) -> np.ndarray:
    x, mu = X[HONEST], X[HONEST].mean(0)
    most = max(sum(np.sum((a - b) ** 2) for b in x) for a in x)
    gamma = largest(lambda gamma: sum(np.sum((mu + gamma * direction - a) ** 2) for a in x) <= most)
    return mu + gamma * direction


def searched(start: np.ndarray, direction: np.ndarray, aggregate) -> np.ndarray:
    """byzfl's search: expansion, then contraction, with 20 evaluations."""
    mu = X[HONEST].mean(0)
    distance = lambda x: np.linalg.norm(aggregate(start + x * direction) - mu)  # noqa: E731
    best, most, step, left = 0.0, distance(0.0), 10.0, 19
    while left:
        left, found = left - 1, distance(best + step)
        if found <= most:
            step *= 0.8
            break
        best, most, step = best + step, found, 2 * step
    while left:
        left, found = left - 1, distance(best + step)
        best, most = (best + step, found) if found > most else (best, most)
        step *= 0.8
    return start + best * direction


MU, STD = X[HONEST].mean(0), X[HONEST].std(0, ddof=1)
Z = NormalDist().inv_cdf((5 - 2) / 5)  # of 7 clients with 2 attacking, 2 honest ones are needed
CRAFTED = {
    "ipm": (IPM(factor=0.7), -0.7 * MU),
    "alie": (ALIE(), MU + Z * STD),
    "alie, z given": (ALIE(z=1.5), MU + 1.5 * STD),
    "min-max": (MinMax(), min_max(-STD)),
    "min-max, unit": (MinMax(direction="unit"), min_max(-MU / np.linalg.norm(MU))),
    "min-max, sign": (MinMax(direction="sign"), min_max(-np.sign(MU))),
    "min-sum": (MinSum(), min_sum(-STD)),
    "sybils": (Sybils(), X[[1, 4]].mean(0)),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_what_omniscient_attackers_send_is_what_their_paper_says(name) -> None:
    settings, vector = CRAFTED[name]
    np.testing.assert_allclose(finished(settings)[0], under_mean(vector), rtol=2e-5, atol=2e-5)


def test_the_line_searches_find_what_does_most_harm_to_the_rule_in_force() -> None:
    for settings, start, direction in ((OptimalIPM(), 0 * MU, -MU), (OptimalALIE(), MU, STD)):
        for reduce, aggregate in ((None, under_mean), (Median().build(), middle_of)):
            wanted = aggregate(searched(start, direction, aggregate))
            np.testing.assert_allclose(finished(settings, reduce)[0], wanted, rtol=2e-5, atol=2e-5)


def test_a_search_by_inner_products_finds_what_one_by_whole_updates_does() -> None:
    for settings in (OptimalIPM(), OptimalALIE()):
        reduce = GeometricMedian(smooth=0.2).build()
        slowly = finished(settings, reduce._replace(rule=None))[0]
        np.testing.assert_allclose(finished(settings, reduce)[0], slowly, rtol=1e-4, atol=1e-4)


def test_mimic_copies_the_client_furthest_along_the_direction_that_ojas_rule_finds() -> None:
    gaps = X[HONEST] - MU
    main = np.linalg.eigh(gaps.T @ gaps)[1][:, -1]  # as all rounds are equal, the power method
    copied = X[HONEST][np.argmax(np.abs(gaps @ main))]
    delta, state = finished(Mimic(), rounds=30)
    np.testing.assert_allclose(delta, under_mean(copied), rtol=2e-5, atol=2e-5)
    z = flat(state.z)
    assert state.round == 30 and abs(np.linalg.norm(z) - 1) < 1e-5 and abs(z @ main) > 0.95


def test_the_deviations_of_a_little_is_enough_are_the_published_ones() -> None:
    assert abs(most_deviations(jnp.float32(40), jnp.float32(10)) - 0.2533) < 1e-4
    assert abs(most_deviations(jnp.float32(27), jnp.float32(24)) - 1.4461) < 1e-4


def test_a_round_without_honest_or_without_marked_clients_stays_finite() -> None:
    for settings in (ALIE(), IPM(), MinMax(), MinSum(), Mimic(), OptimalALIE()):
        attack = settings.build(CLASSES)

        @jax.jit
        def aggregate(attacking: jax.Array, attack=attack):
            reduce = with_attack(Uplink(uniformly, chain(), mean()), attack, attacking).reduce
            updates = Update(Model(ROWS, {}), (), jnp.ones(K))
            one = jax.tree.map(lambda x: x[0], updates)
            at = RoundContext(jnp.int32(0), jax.random.key(0), jnp.float32(K), jnp.float32(K), jnp.arange(K))
            added = reduce.add(reduce.zero(one, K), updates, jnp.arange(K))
            return reduce.finish(added, reduce.init(one), at)[0].delta

        for attacking in (jnp.ones(10, bool), jnp.zeros(10, bool)):
            delta = flat(aggregate(attacking))
            assert np.isfinite(delta).all()
            if not attacking.any():
                np.testing.assert_allclose(delta, X.mean(0), rtol=1e-5, atol=1e-6)


def test_a_client_s_own_update_is_changed_if_it_is_marked() -> None:
    delta = jax.tree.map(lambda x: x[0], ROWS)
    wanted = {SignFlip(factor=2.0): -2 * X[0], Zero(): 0 * X[0], Boost(): 10 * X[0], NotFinite(): np.nan * X[0],
              NotFinite(value="inf"): np.inf + 0 * X[0]}  # fmt: skip
    for settings, vector in wanted.items():
        attacking = attackers(Attackers(clients=(3,)), 5)
        stages = with_attack(Uplink(uniformly, chain(), mean()), settings.build(CLASSES), attacking).stages
        for client in (3, 2):
            sender = Sender(jnp.int32(client), jnp.int32(0), jax.random.key(0), *(jnp.float32(1),) * 2, None)
            sent = stages.client(Update(delta, (), jnp.float32(1)), stages.init_client(None), sender)[0]
            np.testing.assert_allclose(flat(sent.delta), vector if client == 3 else X[0], rtol=1e-6)


def test_gaussian_updates_have_their_standard_deviation_and_another_value_for_each_client() -> None:
    delta = {"a": jnp.full((200, 50), 7.0)}
    for around, middle in ((False, 0.0), (True, 7.0)):
        own = Gaussian(sigma=3.0, around=around).build(CLASSES).send
        first, second = (np.asarray(own(delta, jax.random.key(n))["a"], np.float64) for n in range(2))
        assert abs(first.mean() - middle) < 0.1 and abs(first.std() - 3) < 0.1 and not np.isclose(first, second).any()


def test_who_attacks() -> None:
    for share, count in ((0.2, 4), (0.05, 1), (0.13, 3)):
        attacking = np.asarray(attackers(Attackers(share=share), 20))
        assert attacking.sum() == count
        again = jax.jit(lambda share: attackers(Attackers(share=share), 20))(share)  # as a member of a group has it
        np.testing.assert_array_equal(attacking, again)
    first, other = (np.asarray(attackers(Attackers(seed=seed), 20)) for seed in (0, 1))
    assert (first != other).any()
    assert np.flatnonzero(attackers(Attackers(clients=(3, 7)), 9)).tolist() == [3, 7]
    assert not attackers(parts.settings("attack")["off"](), 9).any()
    with pytest.raises(UserError, match=r"attack.clients=9: there are 9 clients"):
        attackers(Attackers(clients=(3, 9)), 9)
    with pytest.raises(UserError, match=r"attack.clients=3,3: name each client once"):
        attackers(Attackers(clients=(3, 3)), 9)
    for share in (0.0, 0.01, 0.99, 1.0):
        with pytest.raises(UserError, match=r"of 20 clients (0|20) would attack"):
            attackers(Attackers(share=share), 20)
    with pytest.raises(UserError, match=r"attack.share=1.5"):
        Attackers(share=1.5)


def batches(settings, client: int, indices=range(17)):
    """What a client reads of its examples, attacker 2 among them, and what it would read without an attack."""
    data = images()
    bad = poisoned(data, settings, CLASSES, attackers(Attackers(clients=(2,)), len(SIZES)))

    @jax.jit
    def read(client: jax.Array, size: jax.Array, indices: jax.Array):
        picked = bad.pick(indices, client, size)
        shifted = bad.shift(bad.read(bad.store, client, picked), client, picked, jnp.int32(0))
        return shifted, data.read(data.store, client, indices)

    found = read(jnp.int32(client), jnp.int32(SIZES[client]), jnp.array(indices, jnp.int32))
    return jax.tree.map(np.asarray, found)


def test_marked_clients_read_poisoned_examples_and_others_do_not() -> None:
    for settings in (Backdoor(), NoisyLabels(), Duplicates()):
        found, honest = batches(settings, 4, range(9))
        jax.tree.map(np.testing.assert_array_equal, found, honest)
    found, honest = batches(LabelFlip(), 2)
    np.testing.assert_array_equal(found["label"], 2 - honest["label"])
    found, honest = batches(TargetedFlip(source=2, target=0), 2)
    np.testing.assert_array_equal(found["label"], np.where(honest["label"] == 2, 0, honest["label"]))
    found, honest = batches(NoisyLabels(rate=1.0), 2)
    assert (found["label"] != honest["label"]).all() and set(found["label"]) == {0, 1, 2}
    found, honest = batches(Duplicates(copies=6), 2)
    np.testing.assert_array_equal(found["image"], honest["image"][np.arange(17) % 2])


def test_a_backdoor_is_a_square_and_the_target_s_label_on_a_share_of_the_examples() -> None:
    found, honest = batches(Backdoor(target=1, size=3, poisoned=0.5), 2)
    hit = (found["image"] != honest["image"]).any((1, 2, 3))
    assert 4 <= hit.sum() <= 13
    assert (found["image"][hit, :3, :3] == 255).all() and (found["label"][hit] == 1).all()
    np.testing.assert_array_equal(found["image"][:, 3:], honest["image"][:, 3:])
    np.testing.assert_array_equal(found["label"][~hit], honest["label"][~hit])


def test_the_test_set_of_success_holds_the_examples_that_the_attack_gives_another_label() -> None:
    data = images()
    labels = np.split(data.store.fields["label"], np.cumsum(SIZES)[:-1])
    tests = {"seen": Test(data, np.arange(len(SIZES), dtype=np.int32)), "validation": Test(data, -np.ones(9, np.int32))}
    federation = Federation(data, tests, ("a", "b", "c"), np.zeros((9, 3), np.int32))
    found = with_success_test(federation, TargetedFlip(source=2, target=0)).tests
    assert list(found) == ["seen", SUCCESS, "validation"]
    test = found[SUCCESS].data
    np.testing.assert_array_equal(test.sizes, [np.sum(each == 2) for each in labels])
    batch = jax.jit(test.read)(test.store, jnp.int32(2), jnp.arange(test.sizes[2]))
    assert (np.asarray(batch["label"]) == 0).all()
    mine = np.split(data.store.fields["image"], np.cumsum(SIZES)[:-1])[2]
    np.testing.assert_array_equal(batch["image"], mine[labels[2] == 2])
    triggered = with_success_test(federation, Backdoor(target=1)).tests[SUCCESS].data
    assert triggered.sizes.sum() == sum(np.sum(each != 1) for each in labels)
    image = jax.jit(triggered.read)(triggered.store, jnp.int32(2), jnp.arange(2))["image"]
    assert (np.asarray(image)[:, :5, :5] == 255).all()
    assert with_success_test(federation, NoisyLabels()) is federation
    with pytest.raises(UserError, match="no test example"):
        with_success_test(federation._replace(tests={"seen": Test(one_class(data), tests["seen"].owner)}),
                          TargetedFlip(source=2, target=0))  # fmt: skip


def one_class(data):
    fields = {**data.store.fields, "label": np.zeros(SIZES.sum(), np.int32)}
    return data._replace(store=data.store._replace(fields=fields))


def test_bad_settings_name_their_field_and_bad_pairs_the_remedy() -> None:
    bad = {
        "attack.factor": lambda: IPM(factor=0.0).build(3),
        "attack.source=5: there are 3 classes": lambda: TargetedFlip(source=5).build(3),
        "must differ": lambda: TargetedFlip(source=1).build(3),
        "attack.copies=0": lambda: Duplicates(copies=0).build(3),
        "attack.rate": lambda: NoisyLabels(rate=2.0).build(3),
        "attack.size=0": lambda: Backdoor(size=0).build(3),
    }
    for words, build in bad.items():
        with pytest.raises(UserError, match=words):
            build()
    data = images()
    lacking = data._replace(store=data.store._replace(fields={"image": data.store.fields["image"]}), fetch=None)
    with pytest.raises(UserError, match="changes 'label', which these data lack"):
        poisoned(lacking, LabelFlip(), CLASSES, attackers(LabelFlip(), len(SIZES)))


@pytest.mark.parametrize("settings", [ALIE(), SignFlip()], ids=["omniscient", "own"])
def test_pairs_that_mean_nothing_are_refused_with_the_remedy(settings) -> None:
    from fedjax_mri.fed.algorithms.oneshot import OneShot

    base = simulation(classifier(), images(), algorithm=OneShot().build())
    attacking = attackers(settings, len(SIZES))
    sim = base._replace(uplink=with_attack(base.uplink, settings.build(CLASSES), attacking))
    with pytest.raises(UserError, match="combines no updates"):
        check_simulation(sim, Plan(devices=1, lanes=1).resolve())
    private = simulation(classifier(), images(), release=True)
    attacked = partial(with_attack, private.uplink, settings.build(CLASSES), attacking)
    if isinstance(settings, SignFlip):
        private = private._replace(uplink=attacked())
        check_simulation(private, Plan(devices=1, lanes=1).resolve())
        assert Integer().build(private.uplink, 9, SIZES).reduce.linear
    else:
        with pytest.raises(UserError, match=r"private sum does not allow; choose .*signflip"):
            attacked()


def test_the_line_searches_give_the_published_vectors_against_trimmed_mean_with_mixing_and_clipping() -> None:
    """Those of byzfl for NNM(1), then Clipping(2), then TrMean(1), with three honest updates and one attacking."""
    rows = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]], np.float32)
    reduce = matrix(TrimmedMean(1).build().rule, [NNM(1).build(), Clipping(bound=2.0).build()])
    wanted = {OptimalIPM(): [-2.74877907, -3.43597384, -4.1231686], OptimalALIE(): 12.91985116 + np.arange(3)}
    for settings, vector in wanted.items():
        updates = Update(Model({"w": jnp.asarray(rows)}, {}), (), jnp.ones(4))
        one = jax.tree.map(lambda x: x[0], updates)
        at = RoundContext(jnp.int32(0), jax.random.key(0), jnp.float32(4), jnp.float32(4), jnp.arange(4))

        @jax.jit
        def sent(updates: Update, settings=settings, one=one, at=at):
            found, attack = [], settings.build(CLASSES)
            spied = attack._replace(craft=lambda *given: found.append(attack.craft(*given)) or found[-1])
            uplink = with_attack(Uplink(uniformly, chain(), reduce), spied, jnp.arange(4) == 3).reduce
            uplink.finish(uplink.add(uplink.zero(one, 4), updates, jnp.arange(4)), uplink.init(one), at)
            return found[0][0]

        np.testing.assert_allclose(sent(updates).params["w"], vector, rtol=2e-6)


def test_flags_choose_the_attack_and_secure_sums_refuse_those_who_need_single_updates() -> None:
    base = config.load(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py")[""]
    flags = "--fed.attack alie --attack.share .3 --attack.clients 3,7 --fed.uplink.reduce krum"
    found = config.override(base, flags.split())
    assert found.attack == ALIE(share=0.3, clients=(3, 7)) and config.override(base, []).attack == Off()
    with pytest.raises(UserError, match=r"attack alie: it needs .* secure sums hide; choose .*signflip"):
        build_method(config.override(base, [*flags.split()[:4], "--fed.secure", "integer"]))
    build_method(config.override(base, ["--fed.attack", "signflip", "--fed.secure", "integer"]))
    names = set(parts.settings("attack"))
    page = (pathlib.Path(__file__).parents[2] / "docs" / "robustness.md").read_text()
    assert names == {"off", *re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", page, re.M)))} & names
