"""Power-law rehearsal: whole budgets, slopes, and what an epoch reads."""

import math
from collections import Counter

import numpy as np
import pytest

from holdfast.carried import MEMORY, Rehearses
from holdfast.methods import method
from holdfast.pieces.feeds import draws
from holdfast.pieces.naturalistic import Naturalistic, apportion, shares
from holdfast.plan import NEW

AGES = list(range(1, 50))


def grown(feed, *sizes):
    """The feed after stages of these sizes."""
    for stage, size in enumerate(sizes, 1):
        feed = feed.after(stage, size, 0)
    return feed


def slope(x, y):
    return np.polyfit(x, y, 1)[0]


@pytest.mark.parametrize("decay", [0.5, 0.75, 1.0, 1.5, 2.0])
def test_the_slope_of_forgetting(decay):
    """Log share against log age; a fake that rehearses uniformly has slope 0."""
    power = shares(AGES, "power", decay)
    assert slope(np.log(AGES), np.log(power)) == pytest.approx(-decay)
    exponential = shares(AGES, "exponential", decay)
    assert slope(AGES, np.log(exponential)) == pytest.approx(-decay)
    for world in ("power", "exponential", "uniform", "recent"):
        assert math.fsum(shares(AGES, world, decay)) == pytest.approx(1)
    assert shares([3, 1, 2], "recent", 1.0) == [0, 1, 0]
    assert shares([], "power", 1.0) == []


def test_the_oldest_is_not_given_up_as_in_an_exponential_world():
    power = shares(AGES, "power", 1.0)
    age = sum(a * p for a, p in zip(AGES, power, strict=True))
    same = shares(AGES, "exponential", -math.log(1 - 1 / age))
    assert power[-1] > 4e-3
    assert same[-1] < power[-1] / 3


@pytest.mark.parametrize("total", [0, 1, 7, 1000])
def test_every_budget_is_spent(total):
    for world in ("power", "exponential", "uniform", "recent"):
        parts = shares(AGES, world, 0.3)
        counts = apportion(parts, total)
        assert sum(counts) == total
        assert all(abs(c - total * p) < 1 for c, p in zip(counts, parts, strict=True))
    assert apportion([0.2, 0.3, 0.5], 10) == [2, 3, 5]


@pytest.mark.parametrize("mix", ["interleave", "after"])
def test_an_epoch_reads_its_own_and_the_budget(mix):
    feed = grown(Naturalistic(share=0.5, mix=mix), 30, 3, 30)
    sizes = {NEW: 22, MEMORY: 63}
    assert isinstance(feed, Rehearses)
    assert feed.rehearsed(22, 63) == {1: 2, 2: 3, 3: 6}
    assert feed.steps(sizes, 11, 2.0) == 6
    read = [d for step in range(6) for d in feed(sizes, step, 11, seed=4)]
    stage = [s for s, _ in feed.exemplars()]
    for epoch in (read[:33], read[33:]):
        assert sorted(i for s, i in epoch if s == NEW) == list(range(22))
        assert Counter(stage[i] for s, i in epoch if s == MEMORY) == {1: 2, 2: 3, 3: 6}
        assert ({s for s, _ in epoch[:22]} == {NEW}) == (mix == "after")
    assert read[:33] != read[33:]
    assert feed(sizes, 2, 11, seed=4) == read[22:33]
    assert [d for step in range(33) for d in feed(sizes, step, 2, seed=4)] == read


def test_a_small_stage_comes_round_again_evenly():
    feed = grown(Naturalistic(share=2.0), 3)
    read = Counter(feed({NEW: 4, MEMORY: 3}, 0, 12, seed=0))
    assert sorted(read[(MEMORY, i)] for i in range(3)) == [2, 3, 3]


def test_nothing_is_rehearsed_in_the_first_stage():
    feed = method("power-law").feed
    read = feed({NEW: 6}, 0, 6, seed=1) + feed({NEW: 6}, 1, 6, seed=1)
    assert sorted(read[:6]) == [(NEW, i) for i in range(6)]
    assert read == [(NEW, i) for i in draws(6, 12, 1)]  # as a plan without a feed
    assert feed.steps({NEW: 6}, 3, 2.0) == 4
    assert feed.foresee([5, 5], 0) == grown(feed, 5, 5).exemplars()
    preview = feed({NEW: 6, MEMORY: 10}, 0, 9, seed=1)
    assert Counter(s for s, _ in preview) == {NEW: 6, MEMORY: 3}


def test_what_was_just_met_is_likely_to_be_met_again():
    """The share of meetings by the time since the last one, over many worlds: age^-1 / 2."""
    seen, met = Counter(), Counter()
    for seed in range(300):
        feed = Naturalistic(meet="event", chance=0.5, run=seed)
        last = {}
        for stage in range(1, 12):
            found = feed.met_in(stage)
            for i, at in last.items():
                seen[stage - at] += 1
                met[stage - at] += i in found
            last |= dict.fromkeys((*found, stage), stage)
    for age in (2, 3, 4):
        assert met[age] / seen[age] == pytest.approx(0.5 / age, abs=0.03)
    assert 0.5 < met[1] / seen[1] < 0.6  # more, since something is always met


def test_events_spend_the_same_budget():
    feed = grown(Naturalistic(meet="event", chance=0.3, share=0.5), 8, 8, 8, 8)
    counts = feed.rehearsed(20, 32)
    assert sum(counts.values()) == 10
    found = feed.met_in(5)
    assert {stage for stage, count in counts.items() if count} == set(found)
    assert feed.met_in(2) == [1]  # where none would be met, the likeliest
