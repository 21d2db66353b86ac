"""Intervals: their coverage, pairing, clustering, and what has none."""

import math

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import UsageError
from holdfast.measures.interval import (
    Estimate,
    bootstrap_change,
    bootstrap_mean,
    over_runs,
    percentile,
    resample,
)


def test_it_reads_as_a_number_with_its_interval():
    assert str(Estimate(12.34, 10.08, 14.51, 90)) == "+12.3 [10.1, 14.5]"
    assert f"{Estimate(-3.1, -5, -1.2, 90):.1f}" == "-3.1 [-5.0, -1.2]"
    assert f"{Estimate(-0.01, -0.04, 0.2, 9):+.1f}" == "+0.0 [0.0, 0.2]"
    assert str(Estimate(5.0, n=1)) == "+5.0 (n=1)"
    assert str(Estimate(math.nan)) == "not measured"
    assert -Estimate(1, 0, 3) == Estimate(-1, -3, 0)


def test_json_and_back():
    for e in (Estimate(1.5, 1, 2, 30, 0.9, "m"), Estimate(math.nan, n=0)):
        assert str(Estimate.from_json(e.to_json())) == str(e)
    assert Estimate(math.nan).to_json()["value"] is None


def test_the_resampling_distribution_agrees_with_theory():
    scores = np.random.default_rng(1).normal(0, 10, (200, 1))
    means = resample(scores, resamples=4000, rng=np.random.default_rng(0))[:, 0]
    assert means.mean() == pytest.approx(scores.mean(), abs=0.05)
    assert means.std() == pytest.approx(scores.std() / math.sqrt(200), rel=0.05)


def test_agrees_with_scipys_percentile_bootstrap():
    scores = np.random.default_rng(2).binomial(1, 0.7, 150) * 100.0
    ours = bootstrap_mean(scores, resamples=9000)
    theirs = stats.bootstrap(
        (scores,), np.mean, method="percentile", n_resamples=9000, rng=np.random.default_rng(5)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.7)


def test_coverage_of_the_paired_change():
    rng = np.random.default_rng(3)
    hits, runs, n = 0, 500, 150
    for i in range(runs):
        before = rng.binomial(1, 0.9, n) * 1.0
        after = np.where(rng.uniform(size=n) < 0.2, rng.binomial(1, 0.5, n), before)
        e = bootstrap_change(before, after, resamples=500, seed=i)
        hits += e.low <= 0.2 * (0.5 - 0.9) <= e.high
    assert 0.92 <= hits / runs <= 0.98


def test_pairing_makes_a_small_change_visible():
    rng = np.random.default_rng(4)
    before = rng.binomial(1, 0.5, 300) * 100.0
    after = before.copy()
    after[np.flatnonzero(before)[:12]] = 0
    paired = bootstrap_change(before, after)
    assert paired.high < 0
    both = np.column_stack([before, after])
    means = resample(both, resamples=500, rng=rng)
    shuffled = means[:, 1] - rng.permutation(means[:, 0])
    assert np.std(means[:, 1] - means[:, 0]) < 0.6 * np.std(shuffled)


def test_examples_of_a_cluster_are_drawn_together():
    rng = np.random.default_rng(5)
    images = np.repeat(rng.normal(0, 1, 40), 10)
    names = [f"image{i // 10}" for i in range(400)]
    alone, together = bootstrap_mean(images), bootstrap_mean(images, names)
    assert (alone.n, together.n) == (400, 40)
    assert "clusters" in together.method
    per_image = bootstrap_mean(images[::10])
    assert together.high - together.low == pytest.approx(per_image.high - per_image.low, rel=0.1)
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_a_drawn_cluster_weighs_as_many_examples_as_it_has():
    scores = np.array([[0.0], [4.0], [4.0], [4.0]])
    means = resample(scores, ["a", "b", "b", "b"], resamples=300, rng=np.random.default_rng(0))
    assert set(means[:, 0]) == {0.0, 3.0, 4.0}


def test_an_empty_cluster_name_is_an_example_on_its_own():
    assert bootstrap_mean([1, 2, 3, 4], ["", "", "a", "a"]).n == 3


def test_a_seed_repeats_and_chunks_do_not_matter(monkeypatch):
    scores = np.random.default_rng(6).normal(size=(30, 2))
    whole = resample(scores, resamples=50, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(
        whole, resample(scores, resamples=50, rng=np.random.default_rng(1))
    )
    monkeypatch.setattr("holdfast.measures.interval._CELLS", 100)
    np.testing.assert_allclose(whole, resample(scores, resamples=50, rng=np.random.default_rng(1)))


def test_what_was_not_measured_is_left_out():
    e = bootstrap_mean([10.0, math.nan, 30.0])
    assert (e.value, e.n) == (20, 2)
    change = bootstrap_change([0.0, 0.0, math.nan], [10.0, math.nan, 50.0])
    assert (change.value, change.n) == (10, 1)
    assert math.isnan(change.low)
    assert str(bootstrap_mean([])) == "not measured"


def test_no_spread_is_an_interval_of_no_width():
    e = bootstrap_mean([100.0] * 50)
    assert (e.value, e.low, e.high) == (100, 100, 100)


def test_over_runs_is_students_t():
    values = [3.0, 5.0, 7.5]
    e = over_runs(values, level=0.9)
    low, high = stats.t.interval(0.9, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (e.value, e.low, e.high) == pytest.approx((np.mean(values), low, high))
    assert e.n == 3


def test_one_run_has_a_value_and_no_interval():
    e = over_runs([4.0, math.nan])
    assert (e.value, e.n, str(e)) == (4.0, 1, "+4.0 (n=1)")
    assert str(over_runs([])) == "not measured"


def test_what_cannot_be_bounded():
    with pytest.raises(UsageError, match="3 scores before and 2 after"):
        bootstrap_change([1, 2, 3], [1, 2])
    with pytest.raises(UsageError, match="level 95"):
        percentile(0, np.zeros(3), n=3, level=95)
    with pytest.raises(UsageError, match="4 examples and 1 cluster"):
        bootstrap_mean([1, 2, 3, 4], ["a"])
