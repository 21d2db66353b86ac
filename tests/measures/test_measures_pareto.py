"""The learning-forgetting plane: fronts, matched learning, area."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.measures.interval import Estimate
from holdfast.measures.pareto import (
    Point,
    Setting,
    dominated_area,
    forgetting_at,
    learning_levels,
    matched_learning,
    over_seeds,
    pareto_front,
)

NAN = math.nan


def setting(learning, forgetting, recipe="r", lr=1e-3):
    return Setting(recipe, lr, Estimate(learning), Estimate(forgetting), Estimate(NAN))


def sweep(recipe, places, seed=0):
    return [Point(recipe, 10.0**i, seed, x, y) for i, (x, y) in enumerate(places)]


def test_the_front():
    a, b, c, d = setting(10, -1), setting(20, -5), setting(15, -6), setting(20, -9)
    assert pareto_front([d, c, b, a]) == [a, b]


def test_ties_stay_and_what_was_not_measured_is_left_out():
    a, twin = setting(10, -1, "a"), setting(10, -1, "b")
    assert pareto_front([twin, a, setting(NAN, 0), setting(99, NAN)]) == [a, twin]
    assert pareto_front([]) == []


places = st.tuples(st.integers(0, 6), st.integers(-6, 0))


@settings(max_examples=100, deadline=None)
@given(st.lists(places, max_size=8))
def test_front_and_area_against_a_slow_count(points):
    rows = [setting(float(x), float(y)) for x, y in points]
    front = pareto_front(rows)
    on_front = {(s.learning.value, s.forgetting.value) for s in front}
    for x, y in points:
        beaten = any(u >= x and v >= y and (u, v) != (x, y) for u, v in points)
        assert ((x, y) in on_front) == (not beaten)
    cells = sum(  # unit squares of the plane that lie under some point
        any(u > x and v > y for u, v in points) for x in range(6) for y in range(-7, 0)
    )
    area = dominated_area(rows, reference=(0.0, -7.0))
    assert math.isnan(area) if not points else area == cells


def test_seeds_of_a_setting_are_averaged():
    runs = [
        Point("b", 1e-3, 0, 10, -2, seconds=5, trained=7),
        Point("a", 1e-4, 0, 1, 0),
        Point("b", 1e-3, 1, 14, -4, seconds=7, trained=7),
        Point("b", 1e-4, 1, 3, NAN),
        Point("a", NAN, 0, 0, 0),
        Point("a", NAN, 1, 0, 0),
    ]
    found = over_seeds(runs)
    assert [s.name for s in found] == ["b @ 0.001", "a", "a @ 0.0001"]
    assert (found[0].learning.value, found[0].learning.n) == (12, 2)
    assert found[0].learning.low == pytest.approx(12 - 12.706 * 2, abs=0.01)
    assert (found[0].seconds.value, found[0].trained) == (6, 7)
    assert math.isnan(found[2].learning.low)


def test_matched_learning_is_interpolated_inside_and_never_outside():
    points = sweep("full", [(10, -1), (50, -41)]) + sweep("gate-up", [(20, 0), (40, -4)])
    rows = {(m.recipe, m.level): m.forgetting.value for m in matched_learning(points, [30, 45, 60])}
    assert rows["full", 30] == pytest.approx(-21)
    assert rows["gate-up", 30] == pytest.approx(-2)
    assert rows["full", 45] == pytest.approx(-36)
    assert math.isnan(rows["gate-up", 45])
    assert math.isnan(rows["full", 60])


def test_a_sweep_that_turns_back_counts_where_it_lost_least():
    path = [(0, 0), (40, -10), (20, -50)]
    assert forgetting_at(path, 30) == pytest.approx(-7.5)
    assert forgetting_at(path, 40) == -10
    assert forgetting_at([(5, -3), (5, -1)], 5) == -1
    assert math.isnan(forgetting_at([(5, -3)], 4.9))
    assert math.isnan(forgetting_at([], 0))


def test_every_seed_must_reach_the_level():
    points = sweep("r", [(0, 0), (40, -8)], 0) + sweep("r", [(0, 0), (20, -8)], 1)
    at_ten, at_thirty = matched_learning(points, [10, 30])
    assert at_ten.forgetting.value == pytest.approx(-3)
    assert at_ten.forgetting.n == 2
    assert math.isnan(at_thirty.forgetting.value)


def test_the_levels_lie_where_two_recipes_can_be_compared():
    points = sweep("a", [(0, 0), (30, -1)]) + sweep("b", [(20, 0), (60, -1)])
    assert learning_levels(points, 3) == [20, 25, 30]
    assert learning_levels(points, 1) == [25]
    assert learning_levels(sweep("a", [(0, 0)]) + sweep("b", [(5, 0)])) == []
    assert learning_levels([]) == []
    with pytest.raises(UsageError, match="at least 1"):
        learning_levels(points, 0)
