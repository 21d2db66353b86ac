"""The stability gap against hand traces, a slow definition, and its properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.measures.stability import (
    Trace,
    learning_curve_area,
    min_acc,
    stability,
    wc_acc,
    windowed_forgetting,
    windowed_plasticity,
)

FIRST = (0.2, 0.6, 0.9, 0.5, 0.4, 0.8, 0.85)
SECOND = (0.1, 0.6, 0.8, 0.9)
SCORES = st.lists(st.integers(0, 100).map(float), min_size=1, max_size=15)


def test_a_trace_by_hand() -> None:
    first = Trace(FIRST, learned=3)
    assert min_acc([first]) == pytest.approx(0.4)
    assert wc_acc(SECOND[-1], [first]) == pytest.approx(0.65)
    assert [windowed_forgetting(FIRST, w) for w in (2, 3, 10)] == pytest.approx([0.4, 0.5, 0.5])
    assert [windowed_plasticity(FIRST, w) for w in (2, 3, 10)] == pytest.approx([0.4, 0.7, 0.7])
    assert [windowed_forgetting(SECOND, w) for w in (2, 3, 10)] == [0, 0, 0]
    assert [windowed_plasticity(SECOND, w) for w in (2, 3, 10)] == pytest.approx([0.5, 0.7, 0.8])
    all_of_it = stability([Trace(SECOND)], [first], windows=(2, 10))
    assert all_of_it.windowed_forgetting == pytest.approx({2: 0.2, 10: 0.25})
    assert all_of_it.windowed_plasticity == pytest.approx({2: 0.45, 10: 0.75})
    assert (all_of_it.min_acc, all_of_it.wc_acc) == pytest.approx((0.4, 0.65))


def test_a_rise_after_a_drop_counts_from_the_bottom() -> None:
    """The official code says 0.1."""
    assert windowed_plasticity((0.5, 0.2, 0.6), 10) == pytest.approx(0.4)


def test_the_score_at_the_end_of_learning_is_no_minimum() -> None:
    assert Trace((0.1, 0.3, 0.7), learned=2).minimum == 0.7
    assert math.isnan(Trace((0.1, 0.3), learned=2).minimum)
    assert math.isnan(min_acc([]))
    assert wc_acc(0.3, []) == 0.3, "with one task it is the task's score"


def test_learning_curve_area_counts_the_score_before_training() -> None:
    assert learning_curve_area((0.0, 0.5, 1.0), 2) == pytest.approx(0.5)
    assert math.isnan(learning_curve_area((0.0, 0.5), 2))


def slow(scores: list[float], window: int, sign: int) -> float:
    pairs = [(m, n) for n in range(len(scores)) for m in range(n) if n - m < window]
    return max([0.0, *(sign * (scores[n] - scores[m]) for m, n in pairs)])


@given(SCORES, st.integers(2, 12))
def test_windows_are_their_definition_and_grow(scores: list[float], window: int) -> None:
    for measure, sign in ((windowed_forgetting, -1), (windowed_plasticity, 1)):
        assert measure(scores, window) == slow(scores, window, sign)
        assert measure(scores, window) <= measure(scores, window + 1)
        assert measure(scores[:-1], window) <= measure(scores, window)


@given(SCORES, SCORES)
def test_the_worst_case_is_never_above_the_average(first: list[float], second: list[float]) -> None:
    average = (first[-1] + second[-1]) / 2
    assert wc_acc(second[-1], [Trace(tuple(first))]) <= average


@pytest.mark.parametrize("window", [-1, 0, 1])
def test_a_window_without_a_gap_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="2 or more"):
        windowed_forgetting((0.1, 0.2), window)
