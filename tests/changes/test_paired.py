"""The statistics of pairs, against closed forms, other libraries' numbers and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import permutation_test as scipy_permutation

from holdfast.changes.paired import Pairs, change, design_effect, mcnemar, p_value, tango
from holdfast.errors import UsageError


def pairs(lost: int, gained: int, n: int, clusters: tuple[str, ...] = ()) -> Pairs:
    before, after = np.ones(n), np.ones(n)
    after[:lost] = 0
    before[lost : lost + gained] = 0
    return Pairs(before, after, clusters)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (7, 0), (3, 9), (5, 5), (40, 61)])
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(lost: int, gained: int) -> None:
    wanted = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_the_interval_without_any_difference_has_a_closed_form(n: int) -> None:
    z2 = 1.959963984540054**2
    low, high = tango(0, 0, n)
    assert -low == pytest.approx(z2 / (n + z2), rel=1e-9)
    assert high == pytest.approx(z2 / (n + z2), rel=1e-9)


def test_the_interval_is_where_the_score_test_stops_rejecting() -> None:
    """Against the constrained likelihood maximised by brute force over a grid."""
    lost, gained, n = 9, 2, 60
    low, high = tango(lost, gained, n)

    def score(delta: float) -> float:
        share = np.linspace(max(0.0, -delta) + 1e-9, (1 - delta) / 2 - 1e-9, 200_001)
        rest = np.log(np.maximum(1 - 2 * share - delta, 1e-300))
        value = gained * np.log(share + delta) + lost * np.log(share) + (n - lost - gained) * rest
        best = share[int(np.argmax(value))]
        return (gained - lost - n * delta) / math.sqrt(n * (2 * best + delta - delta**2))

    assert score(low) == pytest.approx(1.96, abs=2e-3)
    assert score(high) == pytest.approx(-1.96, abs=2e-3)


@pytest.mark.parametrize(("lost", "gained", "n"), [(0.02, 0.02, 100), (0.3, 0.05, 60)])
def test_the_interval_covers(lost: float, gained: float, n: int) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(n, [lost, gained, 1 - lost - gained], size=800)
    inside = [low <= gained - lost <= high for low, high in (tango(a, b, n) for a, b, _ in drawn)]
    assert 0.93 <= float(np.mean(inside)) <= 0.985


def test_swapping_the_sides_mirrors_everything() -> None:
    there, back = pairs(9, 2, 60), pairs(2, 9, 60)
    assert change(there).low == pytest.approx(-change(back).high)
    assert p_value(there) == pytest.approx(p_value(back))


def test_one_example_in_a_cluster_of_its_own_changes_nothing() -> None:
    own = tuple(f"c{i}" for i in range(60))
    assert change(pairs(9, 2, 60, own)) == change(pairs(9, 2, 60))
    assert p_value(pairs(9, 2, 60, own)) == p_value(pairs(9, 2, 60))


def test_copies_of_an_example_add_no_information() -> None:
    """Each example asked four times under one image is worth one example."""
    alone = pairs(6, 2, 40)
    copied = Pairs(
        np.repeat(alone.before, 4),
        np.repeat(alone.after, 4),
        tuple(f"image {i}" for i in range(40) for _ in range(4)),
    )
    assert design_effect(copied) == pytest.approx(4.0)
    assert change(copied).low == pytest.approx(change(alone).low)
    assert p_value(copied) == pytest.approx(p_value(alone), rel=1e-6)


def test_against_the_clustered_error_of_lmms_eval() -> None:
    """``clustered_stderr`` of lmms-eval (2026-08; Miller 2024, arXiv 2411.00640, equation 4) on
    the differences of 24 examples under 8 images. It adds the terms within clusters to the
    sample variance, which divides by n - 1; the design effect is those terms over the rest."""
    found = Pairs(
        np.array([0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
        np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
        tuple(f"image {i // 3}" for i in range(24)),
    )
    theirs, n = 0.13384563416196663, 24
    squares = float(((found.difference - found.difference.mean()) ** 2).sum())
    wanted = (theirs**2 * n**2 - squares / (n - 1)) / squares
    assert design_effect(found) == pytest.approx(wanted, rel=1e-9)
    assert wanted > 1.2


def test_the_randomisation_test_of_clusters_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    clusters = tuple(f"c{i // 3}" for i in range(30))
    found = Pairs(rng.integers(0, 2, 30), rng.integers(0, 2, 30), clusters)
    sums = found.by_cluster()
    wanted = scipy_permutation(
        (sums, np.zeros_like(sums)),
        lambda a, b: float(np.sum(a - b)),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert p_value(found) == pytest.approx(wanted.pvalue, abs=1e-9)


def test_graded_scores_have_an_interval_around_their_mean() -> None:
    found = change(Pairs(np.array([0.5, 1.0, 0.2, 0.7] * 10), np.array([0.4, 0.9, 0.3, 0.2] * 10)))
    assert found.value == pytest.approx(-15.0)
    assert found.low < -15 < found.high < 0


def test_pairs_of_other_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="same examples"):
        Pairs(np.ones(3), np.ones(4))
