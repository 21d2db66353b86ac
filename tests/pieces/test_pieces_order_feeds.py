"""Feeds with schedules of their own: counted on the stream of draws."""

import itertools
import statistics
from collections import Counter, defaultdict

import pytest
import torch

from holdfast.carried import MEMORY, Ended
from holdfast.data.orders import Order
from holdfast.errors import ConfigError
from holdfast.methods import delt, dmt, view_batch
from holdfast.pieces.feeds import Shuffled
from holdfast.pieces.order_feeds import DualStage, InOrder, portion
from holdfast.pieces.views import ViewBatch, ViewConsistency, pairs
from holdfast.plan import NEW, VIEWS, Outputs, source_id, view, viewed


def stream(feed, sizes, steps, batch, seed=0):
    return [feed(sizes, s, batch, seed) for s in range(steps)]


# Data as it stands


def test_data_is_read_as_it_stands():
    feed = InOrder()
    read = [i for step in stream(feed, {NEW: 5}, 3, 4) for _, i in step]
    assert read == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert delt().feed == feed


def test_sorted_data_is_folded():
    feed = delt(order="fold:3").feed
    assert feed == InOrder(Order("fold", 3))
    assert [i for _, i in feed({NEW: 10}, 0, 10, 0)] == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]


# Two stages


@pytest.mark.parametrize("share", [0, 1 / 256, 1 / 3, 1])
def test_the_second_stage_has_the_papers_size(share):
    sizes = {NEW: 90, "math": 110, "code": 20}
    feed = DualStage(share=share, beside=("math", "code"))
    wanted = 90 + round(share * 110) + round(share * 20)
    assert feed.steps(sizes, 1, 1.0) == wanted
    read = Counter(step[0] for step in stream(feed, sizes, wanted, 1))
    assert set(read.values()) == {1}, "an epoch reads nothing twice"
    assert Counter(name for name, _ in read) == Counter(
        {NEW: 90, "math": round(share * 110), "code": round(share * 20)}
    )
    again = {step[0] for step in stream(feed, sizes, wanted, 1, seed=0)}
    assert again == set(read), "and the next epoch, and another process, the same subset"


def ended(stage, size, seed=3):
    return Ended(stage, seed, torch.nn.Linear(1, 1), (), [None] * size, lambda rows: {})


def test_stage_one_is_not_mixed_and_the_share_is_of_stage_one():
    feed = dmt(share=0.1).feed.recall({})
    assert feed.exemplars() == ()
    shuffled = stream(Shuffled(), {NEW: 40}, 10, 4)
    assert stream(feed, {NEW: 40}, 10, 4) == shuffled
    second = feed.recall(feed.keep(ended(1, 40)))
    assert len(second.exemplars()) == 4 == len(set(second.exemplars()))
    assert {s for s, _ in second.exemplars()} == {1}
    assert len(second.exemplars()) == len(feed.foresee([40], 3))
    read = {d for step in stream(second, {NEW: 16, MEMORY: 4}, 5, 4) for d in step}
    assert read == {(NEW, i) for i in range(16)} | {(MEMORY, i) for i in range(4)}


def test_several_specialised_stages_are_rounded_each_and_not_mixed_among_themselves():
    feed = dmt(share=0.25, specialised=2).feed.recall({})
    second = feed.recall(feed.keep(ended(1, 10)))
    assert second.exemplars() == ()
    third = second.recall(second.keep(ended(2, 20)))
    assert Counter(s for s, _ in third.exemplars()) == {1: round(2.5), 2: 5}
    fourth = third.recall(third.keep(ended(3, 50)))
    assert fourth.exemplars() == third.exemplars(), "general data is not specialised"


def test_without_a_share_it_is_mixed_sequential_to_the_bit():
    feed = dmt(share=0.0).feed.recall({})
    second = feed.recall(feed.keep(ended(1, 40)))
    assert second.exemplars() == ()
    assert stream(second, {NEW: 30}, 20, 4, 7) == stream(Shuffled(), {NEW: 30}, 20, 4, 7)
    assert second.steps({NEW: 30}, 4, 3.0) == Shuffled().steps({NEW: 30}, 4, 3.0)


def test_a_portion_is_drawn_without_replacement_by_seed():
    assert len(set(portion(100, 0.3, "a"))) == 30
    assert portion(100, 0.3, "a") == portion(100, 0.3, "a") != portion(100, 0.3, "b")


# Views


def visits(feed, n, batch, steps):
    """For each example the steps in which it is read."""
    seen = defaultdict(list)
    for s, step in enumerate(stream(feed, {NEW: n}, steps, batch)):
        for name, i in step:
            seen[i if name == NEW else viewed(i)[0]].append(s)
    return seen


def median_gap(seen):
    return statistics.median(
        b - a for at in seen.values() for a, b in itertools.pairwise(at) if b > a
    )


@pytest.mark.parametrize("n", [64, 50])
def test_the_recall_interval_is_v_times_longer_at_equal_visits_and_steps(n):
    steps = ViewBatch(views=4).steps({NEW: n}, 8, 64.0)
    assert steps == Shuffled().steps({NEW: n}, 8, 64.0)
    burst, plain = (visits(f, n, 8, steps) for f in (ViewBatch(views=4), Shuffled()))
    assert median_gap(burst) == pytest.approx(4 * median_gap(plain), rel=0.15)
    assert set(map(len, plain.values())) <= {64, 63, 65}
    assert set(map(len, burst.values())) <= {60, 64, 68}, "none is lost to rounding"
    spread = visits(ViewBatch(views=1), n, 8, steps)
    assert median_gap(spread) == median_gap(plain), "views that are spread out have no effect"


def test_one_view_is_ordinary_training():
    assert stream(ViewBatch(views=1), {NEW: 9}, 5, 4) == stream(Shuffled(), {NEW: 9}, 5, 4)
    assert view_batch(views=1).learn == ()


def test_no_view_comes_twice():
    drawn = [d for step in stream(ViewBatch(views=4), {NEW: 6}, 40, 8) for d in step]
    changed = [d for d in drawn if d[0] == VIEWS]
    assert len(changed) == 3 * len([d for d in drawn if d[0] == NEW]) == len(set(changed))
    assert all(viewed(i)[0] < 6 and viewed(i)[1] > 0 for _, i in changed)


def test_a_step_that_bursts_do_not_fill_is_refused():
    with pytest.raises(ConfigError, match="multiple of 4"):
        ViewBatch(views=4)({NEW: 9}, 0, 6, 0)


def outputs(logits):
    """Two examples in two views each, two answer tokens in each."""
    rows = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    own, other = source_id(NEW), source_id(VIEWS)
    sources = torch.tensor([own, own, other, other, other, other, own, own])
    examples = torch.tensor([5, 5, view(5, 1), view(5, 1), view(7, 3), view(7, 3), 7, 7])
    return Outputs(logits, torch.zeros(8).long(), rows, sources=sources, examples=examples)


def test_views_are_paired_by_their_example_and_not_by_their_neighbours():
    student, teacher = pairs(outputs(torch.zeros(8, 3)))
    assert dict(zip(student.tolist(), teacher.tolist(), strict=True)) == {2: 0, 3: 1, 4: 6, 5: 7}


def test_the_term_is_the_mean_divergence_and_the_first_view_gets_no_gradient():
    torch.manual_seed(0)
    logits = torch.randn(8, 3, requires_grad=True)
    term = ViewConsistency(views=2)
    value = term(outputs(logits)).mean()  # as the engine averages
    p = logits.detach().softmax(-1)
    by_hand = [(p[t] * (p[t] / p[s]).log()).sum() for s, t in ((2, 0), (3, 1), (4, 6), (5, 7))]
    assert torch.allclose(value, torch.stack(by_hand).mean(), atol=1e-6)
    value.backward()
    first = torch.tensor([0, 1, 6, 7])
    assert logits.grad[first].abs().max() == 0 < logits.grad[[2, 3, 4, 5]].abs().min()


def test_alike_views_cost_nothing():
    logits = torch.randn(2, 3).repeat(4, 1)[[0, 1, 0, 1, 0, 1, 0, 1]]
    assert ViewConsistency(views=2)(outputs(logits)).abs().max() < 1e-6
