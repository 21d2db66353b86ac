"""Recurring streams: what is drawn, what is read, and that knowledge accumulates on digits."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from holdfast.carried import Ahead
from holdfast.errors import ConfigError
from holdfast.measures.recurring import accumulation
from holdfast.methods import method
from holdfast.pieces.recurring import GroupMasked, Recurring, Stream, probabilities
from holdfast.plan import NEW, Outputs

torch.set_num_threads(1)


def counts(stream, tasks):
    return Counter(c for n in range(tasks) for c in stream(n))


def test_classes_come_as_often_as_their_probabilities_say():
    """One at a time, the frequencies are p (chi-square, 9 degrees of freedom, 1 in 1000)."""
    from scipy.stats import chisquare

    for skew in (0.0, 4.0):
        p = probabilities(10, skew, 3)
        seen = counts(Stream(classes=10, at_once=1, skew=skew, seed=3), 4000)
        assert chisquare([seen[c] for c in range(10)], [4000 * x for x in p]).pvalue > 1e-3
    ordered = sorted(p)
    start = [1 - c * 0.05 for c in range(10)]
    expected = sorted(x**4 / sum(y**4 for y in start) for x in start)
    assert ordered == pytest.approx(expected)
    assert probabilities(100, 1.0, 0)[0] > 0


def test_no_class_twice_in_a_task_and_all_at_once_is_everything():
    stream = Stream(classes=6, at_once=3)
    assert all(len(set(stream(n))) == 3 for n in range(200))
    assert all(sorted(Stream(classes=4, at_once=4)(n)) == [0, 1, 2, 3] for n in range(9))


def test_scenarios():
    late = Stream(classes=6, scenario="forgetting", tasks=100)
    assert set(counts(late, 50)) == set(range(6))
    assert {c for n in range(50, 100) for c in late(n)} == {0, 1, 2}
    periods = Stream(classes=6, scenario="incremental", tasks=40)
    assert {c for n in range(20) for c in periods(n)} == {0, 1, 2}
    assert {c for n in range(20, 40) for c in periods(n)} == {3, 4, 5}
    turns = Stream(classes=4, scenario="cyclic")
    assert [turns(n) for n in range(7)] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (0, 1)]
    changed = Stream(classes=4, scenario="cyclic", change=0.5)
    assert any(changed(n) != turns(n) for n in range(6))
    assert all(len(set(changed(n))) == 2 for n in range(50))
    few = Stream(classes=6, combinations=0.2)
    assert len({few(n) for n in range(100)}) == 3
    with pytest.raises(ConfigError, match="cannot be drawn from 3, half of them"):
        Stream(classes=6, at_once=4, scenario="forgetting")
    with pytest.raises(ConfigError, match="give one of them"):
        Stream(classes=6, combinations=0.5, skew=1.0)


def test_a_task_reads_all_of_its_classes_and_nothing_else():
    feed = Recurring(stream=Stream(classes=3, tasks=8), others=("b", "c"), repeats=2)
    sizes = {NEW: 5, "b": 7, "c": 3}
    total = feed.steps(sizes, 4, 1.0)
    assert {len(feed(sizes, step, 4, 0)) for step in range(total)} <= {3, 4}
    tasks = [feed.task(sizes, 4, step) for step in range(total)]
    assert sorted(set(tasks)) == list(range(8))
    assert tasks == sorted(tasks)
    for number in range(8):
        names = [feed.classes[c] for c in feed.stream(number)]
        read = Counter(
            d for step in range(total) if tasks[step] == number for d in feed(sizes, step, 4, 0)
        )
        assert read == {(name, i): 2 for name in names for i in range(sizes[name])}
        assert feed.begin(sizes, 4, number) == tasks.index(number)
    assert feed.steps(sizes, 4, 2.0) == feed.begin(sizes, 4, 16)
    assert feed(sizes, 3, 4, 0) == feed(sizes, 3, 4, 0) != feed(sizes, 3, 4, 1)


def test_the_method_names_its_classes():
    plan = method("scole:classes=b+c,tasks=9,mask=true")
    assert plan.feed.sources == ("b", "c")
    assert plan.learn[0].fits
    with pytest.raises(ConfigError, match="each once, joined by"):
        method("scole", classes="b+b")


def test_the_mask_leaves_the_columns_of_the_present_classes():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9, generator=g, requires_grad=True)
    targets = torch.tensor([2, 7, 7, 2, 4, 2])
    outputs = Outputs(logits, targets, torch.arange(6))
    here = torch.tensor([2, 4, 7])
    restricted = F.cross_entropy(
        logits[:, here], torch.searchsorted(here, targets), reduction="none"
    )
    term = GroupMasked()
    torch.testing.assert_close(term(outputs), restricted)
    term(outputs).sum().backward()
    assert not logits.grad[:, [0, 1, 3, 5, 6, 8]].any()  # what is absent is not pushed down
    # a pass of a step knows the words of the whole step; a prompt has none
    labels = torch.tensor([[5, -100, 2, 7], [4, -100, 4, -100]])
    term.look_ahead(Ahead(None, {}, [{"labels": labels}], 0.1, None, None))
    part = Outputs(logits[:1], targets[:1], torch.arange(1))
    torch.testing.assert_close(term(part), restricted[:1])


def test_digits_accumulate_while_every_task_forgets():
    """Two digits at a time, 300 tasks of plain SGD with the mask, scored on all ten."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = (torch.tensor(v) for v in datasets.load_digits(return_X_y=True))
    x, test = (x / 16).float(), torch.arange(len(y)) % 4 == 0
    own = [(~test & (y == c)).nonzero()[:, 0] for c in range(10)]
    names = tuple(str(c) for c in range(1, 10))
    feed = Recurring(stream=Stream(classes=10, tasks=300), others=names)
    sizes = {name: len(rows) for name, rows in zip(feed.classes, own, strict=True)}
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    term, scores = GroupMasked(), []
    bounds = [feed.begin(sizes, 64, n) for n in range(301)]
    for first, last in pairwise(bounds):
        for step in range(first, last):
            rows = torch.stack([own[feed.classes.index(s)][i] for s, i in feed(sizes, step, 64, 0)])
            optimizer.zero_grad()
            term(Outputs(net(x[rows]), y[rows], rows)).mean().backward()
            optimizer.step()
        with torch.no_grad():
            right = (net(x[test]).argmax(-1) == y[test]).float()
        scores.append([100 * float(right[y[test] == c].mean()) for c in range(10)])
    found = accumulation(scores, [feed.stream(n) for n in range(300)])
    assert found.smoothed[-1] - found.smoothed[9] > 20
    assert found.gained > 0
    assert found.lost > 0


def test_accumulation_by_hand():
    scores = [[10.0, 20.0], [30.0, 10.0], [20.0, 50.0]]
    found = accumulation(scores, [{0}, {0}, {1}], window=2)
    assert found.means == (15.0, 20.0, 35.0)
    assert found.smoothed == (15.0, 17.5, 27.5)
    assert found.gained == pytest.approx((20 + 40) / 2)
    assert found.lost == pytest.approx((10 + 10) / 2)
    assert found.rise == 12.5
    with pytest.raises(ValueError, match="one row per task"):
        accumulation(scores, [{0}])
