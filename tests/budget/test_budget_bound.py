"""The bound on the loss, held against simulated truths and closed forms."""

import json

import numpy as np
import pytest

from holdfast.budget.bound import bound, needed, smallest
from holdfast.changes.paired import Pairs
from holdfast.errors import UsageError


def pairs(change, clusters=()):
    change = np.asarray(change, float)
    return Pairs(np.clip(-change, 0, 1), np.clip(change, 0, 1), clusters)


def draw(rng, n, lost, gained, cluster=1):
    """``n`` answers of which shares are lost and gained; ``cluster`` in a row are the same."""
    u = np.repeat(rng.random(n // cluster), cluster)
    change = np.where(u < lost, -1.0, np.where(u < lost + gained, 1.0, 0.0))
    return pairs(change, tuple(str(i // cluster) for i in range(n)) if cluster > 1 else ())


@pytest.mark.parametrize(
    "tasks",
    [
        [(300, 0.01, 0.0)],  # rare losses: where a plain score bound is too small
        [(300, 0.3, 0.28)],  # a noisy task
        [(100, 0.01, 0.0)] * 6,
        [(300, 0.03, 0.02)] * 4,
        [(400, 0.0, 0.0), (40, 0.1, 0.0)],  # all the harm in a small task
        [(50, 0.2, 0.05), (200, 0.0, 0.0), (200, 0.01, 0.01)],
    ],
)
def test_the_truth_is_above_the_bound_in_no_more_than_one_of_twenty(tasks):
    rng, rounds = np.random.default_rng(0), 120
    truth = 100 * np.mean([lost - gained for _, lost, gained in tasks])
    missed = 0
    for _ in range(rounds):
        found = bound({str(i): draw(rng, *t) for i, t in enumerate(tasks)})
        missed += found.high < truth
    assert missed / rounds <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / rounds)


def test_clusters_and_graded_scores_widen_it():
    rng, rounds = np.random.default_rng(1), 100
    missed = blind = 0
    for _ in range(rounds):
        p = draw(rng, 400, 0.10, 0.05, cluster=8)
        missed += bound({"t": p}).high < 5
        blind += bound({"t": Pairs(p.before, p.after)}).high < 5
    assert missed / rounds <= 0.08 < blind / rounds  # as if they were independent: far too small
    rng, missed = np.random.default_rng(2), 0
    for _ in range(rounds):
        change = -np.where(rng.random(200) < 0.05, rng.random(200), 0.0)
        missed += bound({"t": pairs(change)}).high < 2.5
    assert missed / rounds <= 0.05


def test_without_a_change_it_is_near_the_exact_binomial_bound():
    exact = 100 * (1 - 0.05 ** (1 / 600))
    assert exact < smallest([600]) < 1.3 * exact
    assert smallest([150] * 4) == pytest.approx(smallest([600]), rel=0.02)
    small = smallest([1000, 20])  # what the small task may hide, over two tasks
    assert small == pytest.approx(smallest([20]) / 2, rel=0.01)


def test_how_many_are_needed():
    for tasks, budget in ((1, 1.0), (8, 1.0), (3, 0.2)):
        n = needed(tasks, budget)
        assert smallest([n] * tasks) <= budget < smallest([n - 1] * tasks)
    assert needed(4, 0.0) == 0


def test_a_gain_is_a_negative_loss_and_nothing_asked_excludes_nothing():
    found = bound({"t": pairs([1.0] * 50 + [0.0] * 50)})
    assert found.value == -50
    several = bound({str(i): pairs([-1.0] + [0.0] * (20 + i)) for i in range(3)})
    assert type(several.high) is float
    assert json.dumps(several.keeps(100.0)) == "true"
    assert -50 < found.high < -38
    assert bound({"a": pairs([0.0] * 50), "b": pairs([])}).high == 100
    with pytest.raises(UsageError, match="at least one task"):
        bound({})
    with pytest.raises(UsageError, match="level"):
        bound({"t": pairs([0.0])}, level=1.0)
