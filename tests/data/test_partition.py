"""Every way to deal examples out, crossed with what must hold for all of them."""

import numpy as np
import pytest

from fedjax_mri.core.errors import UserError
from fedjax_mri.data.partition import IID, Dirichlet, Quantity, Shards, Similarity, Sizes, apportion, follow, holdout

PARTITIONS = {
    "iid": IID(7),
    "iid, one client": IID(1),
    "sizes as proportions": Sizes((5000, 6000, 6500, 5401)),
    "sizes, exact": Sizes((100, 200, 50, 250)),
    "quantity": Quantity(20, 1.5),
    "quantity, extreme": Quantity(20, 1e6),
    "dirichlet": Dirichlet(10, 0.3),
    "dirichlet, one class each": Dirichlet(10, 1e-8, minimum=0),
    "shards": Shards(25, 2),
    "similarity": Similarity(7, 0.3, clients_of_one=3),
}
REFUSED = {
    "0 clients": IID(0),
    "-3 clients": Quantity(-3, 1.0),
    "601 clients": IID(601),
    "alpha 0": Dirichlet(4, 0.0),
    "alpha nan": Dirichlet(4, float("nan")),
    "alpha inf": Dirichlet(4, float("inf")),
    "minimum=0": Dirichlet(300, 0.01),
    "sigma -1": Quantity(4, -1.0),
    "sigma nan": Quantity(4, float("nan")),
    "gamma 1.5": Similarity(4, 1.5),
    "clients_of_one -1": Similarity(4, 0.5, -1),
    "per_client 0": Shards(4, 0),
    "400 clients of 2 shards": Shards(400, 2),
    "sizes (3, 0)": Sizes((3, 0)),
    "0 clients: ": Sizes(()),
}
N, CLASSES = 600, 4


def examples(mean_group: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    groups = np.arange(N) if mean_group == 1 else rng.integers(0, int(N / mean_group), N) * 10
    return rng.integers(0, CLASSES, N).astype(np.int32), groups


def owners(parts: list[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])[np.argsort(np.concatenate(parts))]


@pytest.mark.parametrize("mean_group", [1.0, 3.0])
@pytest.mark.parametrize("name", PARTITIONS)
def test_covers_every_example_once_and_keeps_groups_intact(name, mean_group):
    labels, groups = examples(mean_group)
    parts = PARTITIONS[name].split(labels, groups, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(N))
    owner = owners(parts)
    for group in np.unique(groups):
        assert len(np.unique(owner[groups == group])) == 1


@pytest.mark.parametrize("name", [name for name in PARTITIONS if name != "iid, one client"])
def test_same_seed_same_parts_and_other_seed_other_parts(name):
    labels, groups = examples()
    first, again, other = (owners(PARTITIONS[name].split(labels, groups, np.random.default_rng(s))) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_with_one_line(message):
    labels, groups = examples()
    with pytest.raises(UserError) as caught:
        REFUSED[message].split(labels, groups, np.random.default_rng(0))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_refuses_more_clients_than_groups():
    labels, _ = examples()
    with pytest.raises(UserError, match="5 clients need 5 examples that are not duplicates, there are 4"):
        IID(5).split(labels, np.arange(N) % 4, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("partition", "pairs", "sizes"),
    [
        (IID(7), 100, [86, 86, 86, 86, 86, 85, 85]),
        (Sizes((100, 200, 50, 250)), 100, [100, 200, 50, 250]),
        (Sizes((5000, 6000, 6500, 5401)), 100, [131, 157, 170, 142]),
        (Quantity(6, 0.0), 100, [100] * 6),
        (Shards(25, 2), 0, [24] * 25),
    ],
)
def test_sizes_are_exact_while_groups_are_few(partition, pairs, sizes):
    labels, groups = examples()
    groups[:pairs] = groups[pairs : 2 * pairs]
    assert [len(part) for part in partition.split(labels, groups, np.random.default_rng(0))] == sizes


def test_skew_follows_its_parameter():
    labels, groups = examples()

    def classes_held(partition):
        parts = partition.split(labels, groups, np.random.default_rng(0))
        return np.mean([len(np.unique(labels[part])) for part in parts if len(part)])

    def spread(partition):
        return np.std([np.log(len(part)) for part in partition.split(labels, groups, np.random.default_rng(0))])

    assert classes_held(Shards(50, 1)) < 1.1 < classes_held(Shards(50, 2)) <= 2.1
    assert classes_held(Dirichlet(10, 0.1, minimum=0)) < classes_held(Dirichlet(10, 100.0)) == CLASSES
    assert spread(Quantity(20, 0.0)) < spread(Quantity(20, 0.5)) < spread(Quantity(20, 1.5))


@pytest.mark.parametrize("mean_group", [1.0, 3.0])
def test_holdout_is_stratified_and_keeps_groups_on_one_side(mean_group):
    labels, groups = examples(mean_group)
    train, test = holdout(labels, groups, 0.2, np.random.default_rng(0))
    assert not set(groups[train]) & set(groups[test])
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(N))
    per_class = np.bincount(labels[test]) / np.bincount(labels)
    np.testing.assert_allclose(per_class, 0.2, atol=0.005 if mean_group == 1 else 0.08)


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_holdout_refuses_an_empty_side(share):
    with pytest.raises(UserError, match=f"holdout {share}"):
        holdout(*examples(), share, np.random.default_rng(0))


def test_test_examples_follow_what_a_client_trains_on():
    labels = np.repeat([0, 1], [30, 20])
    parts = follow(labels, np.arange(50), np.array([[10, 0], [20, 5], [0, 15]]), np.random.default_rng(0))
    assert [np.bincount(labels[part], minlength=2).tolist() for part in parts] == [[10, 0], [20, 5], [0, 15]]


@pytest.mark.parametrize(
    ("weights", "n", "whole"),
    [((5, 3, 2), 10, [5, 3, 2]), ((1, 1, 1), 10, [4, 3, 3]), ((0.6, 0.3, 0.1), 4, [3, 1, 0]), ((0, 0), 0, [0, 0])],
)
def test_apportion_adds_up_by_largest_remainder(weights, n, whole):
    assert apportion(np.array(weights), n).tolist() == whole


def test_similarity_deals_out_its_share_at_random_and_the_rest_by_label() -> None:
    """Without similarity a client holds few classes; with half of it each holds half of what it would at random."""
    labels, groups = np.repeat(np.arange(10), 100), np.arange(1000)
    tables = {}
    for gamma in (0.0, 0.5, 1.0):
        parts = Similarity(10, gamma, clients_of_one=2).split(labels, groups, np.random.default_rng(0))
        assert [len(part) for part in parts[10:]] == [1, 1] and np.ptp([len(part) for part in parts[:10]]) <= 2
        tables[gamma] = np.array([np.bincount(labels[part], minlength=10) for part in parts[:10]])
    assert np.sort(tables[0.0], 1)[:, :-2].sum() == 0 and tables[1.0].min() > 0
    np.testing.assert_allclose(np.sort(tables[0.5], 1)[:, -2:].sum(1), 60, atol=10)
