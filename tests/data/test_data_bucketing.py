"""Cuts by length: partitions, least padding against all others, bounds that a slow loop finds."""

import itertools
import random

import pytest

from holdfast.data.bucketing import even_cuts, like_lengths, like_totals, padded, regroup

LENGTHS = [[5], [7, 7, 7], [9, 1, 4, 30, 2, 8], [3, 3, 90, 1, 1, 12, 40, 5]]


def equal_partitions(n, groups):
    """Every way to put n things in groups of equal size."""
    size = n // groups
    for order in itertools.permutations(range(n)):
        cut = [order[k * size : (k + 1) * size] for k in range(groups)]
        if all(list(g) == sorted(g) for g in cut) and cut == sorted(cut):
            yield cut


@pytest.mark.parametrize("split", [like_lengths, like_totals])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_every_example_is_in_one_group(split, lengths):
    for groups in range(1, len(lengths) + 1):
        made = split(lengths, groups)
        assert len(made) == groups
        assert all(made)
        assert sorted(i for group in made for i in group) == list(range(len(lengths)))
        assert max(map(len, made)) <= -(-len(lengths) // groups)
        assert split(lengths, groups) == made


@pytest.mark.parametrize("groups", [2, 3])
def test_no_cut_of_equal_sizes_pads_less(groups):
    lengths = LENGTHS[2]
    least = min(padded(lengths, cut) for cut in equal_partitions(len(lengths), groups))
    assert padded(lengths, like_lengths(lengths, groups)) == least


def test_padding_counted_by_hand():
    assert padded([3, 5, 1], [[0, 1], [2]]) == 2 * 5 + 1
    assert padded([3, 5, 1], [[0], [1], [2]]) == 9


def test_totals_are_within_four_thirds_of_the_best():
    """Graham's bound, for groups that may have any size: here none is full but by the cap."""
    rng = random.Random(0)
    for _ in range(50):
        lengths = [rng.randint(1, 40) for _ in range(6)]
        best = min(max(sum(lengths[i] for i in g) for g in cut) for cut in equal_partitions(6, 2))
        made = like_totals(lengths, 2)
        assert max(sum(lengths[i] for i in g) for g in made) <= 4 / 3 * best


def test_cuts_are_where_a_slow_search_puts_them():
    rng = random.Random(1)
    for _ in range(30):
        weights = [rng.randint(1, 9) for _ in range(60)]
        pieces, target = 8, 30.5
        bounds = even_cuts(weights, pieces, target)
        assert bounds[0] == 0
        for k, bound in enumerate(bounds[1:], 1):
            errors = [abs(sum(weights[:b]) - k * target) for b in range(len(weights) + 1)]
            assert errors[bound] == min(errors)
            piece = sum(weights[bounds[k - 1] : bound])
            assert abs(piece - target) <= max(weights)


@pytest.mark.parametrize("weights", [[100, 1, 1, 1], [1, 1, 1, 100], [1, 100, 1, 1], [1] * 4])
def test_no_piece_is_empty(weights):
    for pieces in range(1, 5):
        bounds = even_cuts(weights, pieces)
        assert bounds[-1] == len(weights)
        assert all(a < b for a, b in itertools.pairwise(bounds))


@pytest.mark.parametrize("call", [like_lengths, like_totals, even_cuts])
def test_more_groups_than_examples_are_refused(call):
    with pytest.raises(ValueError, match="2 examples cannot be put into 3 groups"):
        call([1, 2], 3)


def test_regrouped_steps_have_the_same_examples_and_less_padding():
    rng = random.Random(2)
    lengths = [int(rng.lognormvariate(4, 0.6)) + 1 for _ in range(64)]
    steps = [list(range(k, k + 8)) for k in range(0, 64, 8)]
    made = regroup(steps, lengths, None, "3")
    assert sorted(i for s in made for i in s) == list(range(64))
    assert [len(s) for s in made] == [8] * 8
    assert padded(lengths, made) < 0.8 * padded(lengths, steps)
    assert made == regroup(steps, lengths, None, "3")
    assert made != regroup(steps, lengths, None, "4")
    longest = [max(lengths[i] for i in s) for s in made]
    assert longest != sorted(longest, reverse=True)


def test_regrouped_steps_keep_their_tokens():
    rng = random.Random(3)
    weights = [rng.randint(1, 20) for _ in range(80)]
    steps = [list(range(k, k + 10)) for k in range(0, 80, 10)]
    for step in regroup(steps, [2 * w for w in weights], weights, "0"):
        assert abs(sum(weights[i] for i in step) - sum(weights) / 8) <= max(weights)
