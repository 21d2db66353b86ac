"""A whole run's answers against the same numbers computed by hand."""

import json
import math

import numpy as np
import pytest

from holdfast.errors import UsageError
from holdfast.measures.formulas import MEASURES
from holdfast.measures.interval import bootstrap_change
from holdfast.measures.summary import Summary, over_seeds, summarise
from holdfast.tasks.base import Answer


def answers(task, scores, *, unparsed=(), clusters=None, ids=None):
    return [
        Answer(
            task=task,
            id=ids[i] if ids else str(i),
            reply="",
            references=("x",),
            score=float(s),
            parsed=None if i in unparsed else "x",
            cluster=clusters[i] if clusters else "",
        )
        for i, s in enumerate(scores)
    ]


@pytest.fixture
def run():
    rng = np.random.default_rng(0)
    rates = {"a": (0.1, 0.8, 0.7), "b": (0.2, 0.3, 0.9), "h1": (0.9, 0.6, 0.8), "h2": (1, 1, 0.9)}
    return {
        (k, task): answers(task, rng.binomial(1, p[k], 60))
        for task, p in rates.items()
        for k in range(3)
    }


def percent(run, stage, task):
    return 100 * np.mean([a.score for a in run[stage, task]])


def test_values_are_those_of_the_matrix(run):
    s = summarise(run, ["a", "b"], ["h1", "h2"], resamples=200)
    learned = [
        percent(run, 1, "a") - percent(run, 0, "a"),
        percent(run, 2, "b") - percent(run, 0, "b"),
    ]
    assert s.measures["target_learning"].value == pytest.approx(np.mean(learned))
    lost = [percent(run, 2, h) - percent(run, 0, h) for h in ("h1", "h2")]
    assert s.measures["held_out_forgetting"].value == pytest.approx(np.mean(lost))
    assert s.curve[2] == s.measures["held_out_forgetting"]
    assert s.curve[0].value == s.curve[0].low == s.curve[0].high == 0
    assert s.matrix().measures() == pytest.approx({n: e.value for n, e in s.measures.items()})
    assert set(s.measures) == set(MEASURES)
    for e in s.measures.values():
        assert e.low <= e.high
    assert s.measures["target_learning"].n == 120


def test_a_tasks_interval_is_the_paired_bootstraps(run):
    s = summarise(run, ["a", "b"], ["h1", "h2"], resamples=4000)
    before = [100 * a.score for a in run[0, "h1"]]
    after = [100 * a.score for a in run[2, "h1"]]
    expected = bootstrap_change(before, after, resamples=4000)
    found = s.cell(2, "h1").change
    assert (found.value, found.n) == (pytest.approx(expected.value), 60)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1.7)


def test_the_order_of_examples_and_held_outs_does_not_matter(run):
    one = summarise(run, ["a", "b"], ["h1", "h2"], resamples=200)
    turned = {key: list(reversed(v)) if key[0] == 2 else v for key, v in run.items()}
    two = summarise(turned, ["a", "b"], ["h2", "h1"], resamples=200)
    for name in MEASURES:
        assert str(one.measures[name]) == str(two.measures[name]), name
    assert one.transitions == tuple(sorted(two.transitions, key=one.transitions.index))


def test_a_task_does_not_change_anothers_interval(run):
    one = summarise(run, ["a", "b"], ["h1", "h2"], resamples=200)
    less = {key: v for key, v in run.items() if key[1] != "h2"}
    assert summarise(less, ["a", "b"], ["h1"], resamples=200).cell(2, "a") == one.cell(2, "a")


def test_examples_of_one_image_are_one_unit():
    rng = np.random.default_rng(1)
    images = np.repeat(rng.binomial(1, 0.5, 20), 5)
    names = [str(i // 5) for i in range(100)]
    asked = {
        (0, "h"): answers("h", np.ones(100), clusters=names),
        (1, "h"): answers("h", images, clusters=names),
    }
    s = summarise(asked, [], ["h"], resamples=1000)
    e = s.measures["held_out_forgetting"]
    assert e.n == 20
    assert e.method == "percentile bootstrap over clusters of examples"
    alone = {key: [Answer(**{**vars(a), "cluster": ""}) for a in v] for key, v in asked.items()}
    narrow = summarise(alone, [], ["h"], resamples=1000).measures["held_out_forgetting"]
    assert e.high - e.low > 1.7 * (narrow.high - narrow.low)


def test_transitions_show_the_churn_that_the_mean_hides():
    before = answers("h", [1, 1, 1, 0, 0, 0])
    after = answers("h", [1, 0, 0, 1, 1, 0], unparsed={2, 5})
    s = summarise({(0, "h"): before, (1, "h"): after}, [], ["h"], resamples=50)
    (t,) = s.transitions
    assert s.measures["held_out_forgetting"].value == 0
    assert (t.right_to_right, t.right_to_wrong, t.wrong_to_right, t.wrong_to_wrong) == (1, 2, 2, 1)
    assert (t.right_to_unparsed, t.n) == (1, 6)
    assert s.cell(1, "h").unparsed == pytest.approx(100 / 3)
    assert s.cell(0, "h").unparsed == 0


def test_ids_pair_the_examples_and_a_repeated_id_is_the_next_of_its_name():
    before = answers("h", [1, 0, 1], ids=["x", "y", "x"])
    after = answers("h", [0, 1, 1], ids=["y", "x", "x"])
    (t,) = summarise({(0, "h"): before, (1, "h"): after}, [], ["h"], resamples=50).transitions
    assert (t.right_to_right, t.wrong_to_wrong, t.n) == (2, 1, 3)


def test_what_was_not_asked_is_not_measured(run):
    partial = {key: v for key, v in run.items() if key != (1, "h1")}
    partial[(1, "h1")] = []
    s = summarise(partial, ["a", "b"], ["h1", "h2"], resamples=50)
    assert s.cell(1, "h1") is None
    assert s.curve[1].value == pytest.approx(percent(run, 1, "h2") - percent(run, 0, "h2"))
    assert all((t.stage, t.task) != (1, "h1") for t in s.transitions)
    alone = summarise({(1, "a"): run[1, "a"]}, ["a"], ["h1"], resamples=50)
    assert math.isnan(alone.measures["target_learning"].value)
    assert math.isnan(alone.measures["held_out_forgetting"].low)
    with pytest.raises(UsageError, match="none of the measured tasks"):
        summarise({}, ["a"])


def test_tasks_that_are_neither_are_reported_only_cell_by_cell(run):
    s = summarise(run, ["a"], ["h1"], resamples=50)
    assert s.cell(2, "b").kind == "other"
    assert s.measures["target_learning"].value == pytest.approx(
        percent(run, 1, "a") - percent(run, 0, "a")
    )


def test_one_example_has_no_interval():
    s = summarise({(0, "h"): answers("h", [1]), (1, "h"): answers("h", [0])}, [], ["h"])
    assert str(s.measures["held_out_forgetting"]) == "-100.0 (n=1)"


def test_json_and_rows(run):
    s = summarise(run, ["a", "b"], ["h1", "h2"], resamples=50)
    text = json.dumps(s.to_json(), allow_nan=False)
    back = Summary.from_json(json.loads(text))
    assert json.dumps(back.to_json(), allow_nan=False) == text
    assert back.matrix().measures() == pytest.approx(s.matrix().measures())
    assert json.loads(text)["measures"]["forgetting_mammoth"]["convention"] == "Mammoth 2026-05"
    rows = s.rows()
    assert all({"measure", "convention", "value", "low", "high", "n"} <= set(r) for r in rows)
    (acc,) = [r for r in rows if r["measure"] == "average_accuracy"]
    assert acc["value"] == s.measures["average_accuracy"].value


def test_the_same_seed_gives_the_same_bounds(run):
    a, b, c = (summarise(run, ["a"], ["h1"], resamples=100, seed=s) for s in (1, 1, 2))
    assert a.to_json() == b.to_json()
    assert a.measures["held_out_forgetting"] != c.measures["held_out_forgetting"]


def test_over_seeds_is_over_runs(run):
    s = summarise(run, ["a", "b"], ["h1", "h2"], resamples=50)
    e = over_seeds([s, s, s])["target_learning"]
    assert (e.value, e.low, e.n) == (
        pytest.approx(s.measures["target_learning"].value),
        pytest.approx(e.value),
        3,
    )
