"""Selections and orders."""

import random

import pytest

from holdfast.data.orders import Order, arrange, fold, read_order, selected, zigzag
from holdfast.errors import UsageError


def test_folding_gives_the_papers_example():
    assert fold(10, 3) == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]


@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize("layers", [1, 2, 3, 40])
@pytest.mark.parametrize("places", [fold, zigzag])
def test_a_fold_is_a_permutation(n, layers, places):
    assert sorted(places(n, layers)) == list(range(n))


def test_each_layer_ascends_and_the_mean_of_every_third_is_nearly_equal():
    drawn = random.Random(0)
    scores = [drawn.gauss(0, 1) for _ in range(3000)]
    order = Order("fold", 3)(scores)
    ranked = [scores[i] for i in order]
    thirds = [ranked[k * 1000 : (k + 1) * 1000] for k in range(3)]
    assert all(t == sorted(t) for t in thirds)
    means = [sum(t) / len(t) for t in thirds]
    assert max(means) - min(means) < 0.02
    down = Order("descending")(scores)
    assert sum(scores[i] for i in down[:1000]) / 1000 > 1  # a sorted order fails the same check


def test_zigzag_turns_every_second_layer():
    assert zigzag(10, 3) == [0, 3, 6, 9, 7, 4, 1, 2, 5, 8]


def test_ties_keep_their_own_order():
    assert Order("ascending")([1.0, 0.0, 1.0, 0.0]) == [1, 3, 0, 2]
    assert Order("descending")([1.0, 0.0, 1.0, 0.0]) == [0, 2, 1, 3]


def test_selection_keeps_the_floor_of_the_share():
    scores = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert selected(scores, 0.5) == [0, 2]
    assert selected(scores, 0.5, "low") == [1, 3]
    assert selected(scores, 0.01) == [0]
    assert selected([1.0] * 10, 0.3) == [0, 1, 2]  # 0.3 * 10 is 3, whatever floats say
    assert arrange(scores, Order("ascending"), select=0.6) == [4, 2, 0]


@pytest.mark.parametrize("text", ["fold:0", "fold:x", "ascending:2", "folding", "fold:-1", ""])
def test_orders_that_are_none_are_refused(text):
    with pytest.raises(UsageError):
        read_order(text)


@pytest.mark.parametrize("text", ["fold:4", "zigzag:2", "as-is", "shuffled"])
def test_an_order_is_written_as_it_is_read(text):
    assert str(read_order(text)) == text


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_a_share_outside_is_refused(share):
    with pytest.raises(UsageError):
        selected([1.0], share)
