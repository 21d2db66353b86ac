"""Rows from runs: the numbers are the summary's, over examples or over runs."""

import math

import numpy as np
import pytest

from holdfast.errors import UsageError
from holdfast.measures.interval import over_runs
from holdfast.measures.pareto import over_seeds
from holdfast.measures.summary import summarise
from holdfast.report.rows import point_of_run, row_of_run, row_of_runs, rows_of_settings
from holdfast.tasks.base import Answer


def run(seed, targets=("a", "b"), stages=3):
    rng = np.random.default_rng(seed)

    def asked(task):
        scores = rng.binomial(1, 0.5, 20)
        return [Answer(task, str(i), "", ("x",), float(v), "x") for i, v in enumerate(scores)]

    answers = {(k, t): asked(t) for k in range(stages) for t in ("a", "b", "h")}
    return summarise(answers, targets, ["h"], resamples=50)


def test_one_run():
    s = run(0)
    row = row_of_run("full", s, trained=5, seconds=2.0)
    assert row.learned == s.measures["target_learning"]
    assert row.forgetting == s.curve[-1]
    assert list(row.curve) == [s.cell(k, "h").score.value for k in range(3)]
    assert row.stages == ("a", "b")
    assert row.to_json()["share"] is None


def test_several_runs_are_averaged_over_runs():
    runs = [run(i) for i in range(3)]
    row = row_of_runs("full", runs)
    expected = over_runs([s.measures["target_learning"].value for s in runs])
    assert (row.learned.value, row.learned.low, row.learned.n) == (
        expected.value,
        expected.low,
        3,
    )
    assert row.curve[1] == pytest.approx(np.mean([s.cell(1, "h").score.value for s in runs]))
    assert row.stages == ("a", "b")


def test_runs_in_different_orders_have_numbered_stages():
    assert row_of_runs("full", [run(0), run(1, ("b", "a"))]).stages == ("stage 1", "stage 2")


def test_runs_of_different_lengths_are_not_averaged():
    with pytest.raises(UsageError, match=r"\[1, 2\] stages"):
        row_of_runs("full", [run(0), run(1, stages=2)])
    with pytest.raises(UsageError, match="at least one run"):
        row_of_runs("full", [])


def test_points_of_runs_make_settings_and_rows():
    runs = [run(i) for i in range(3)]
    points = [point_of_run("full", s, lr=1e-3, seed=i) for i, s in enumerate(runs)]
    (row,) = rows_of_settings(over_seeds(points))
    assert row.learned.value == pytest.approx(row_of_runs("full", runs).learned.value)
    assert row.lr == 1e-3
    assert math.isnan(row.seconds)
