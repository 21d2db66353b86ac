"""The alarm for a model's own answers: planted collapses, and learning that is none."""

import logging
import math
import random

import pytest
import torch

from holdfast.pieces.collapse import CollapseAlarm, effective, fresh


def test_how_many_different_answers_there_are():
    assert effective([[1], [2], [3], [4]]) == pytest.approx(4)
    assert effective([[1, 2]] * 5) == pytest.approx(1)
    shares = (3 / 4, 1 / 4)
    entropy = -sum(p * math.log(p) for p in shares)
    assert effective([[1], [1], [1], [1, 1]]) == pytest.approx(math.exp(entropy))


def test_what_runs_in_circles_is_not_fresh():
    assert fresh([[1, 2, 3, 4]]) == 1
    assert fresh([[7], []]) == 1
    assert fresh([[1, 2, 1, 2, 1]]) == pytest.approx(2 / 4)
    assert fresh([[5, 5, 5, 5, 5], [1, 2]]) == pytest.approx((1 + 1) / (4 + 1))


def steps(alarm, write, count, words=4):
    drawn = random.Random(0)
    wanted = [[drawn.randrange(words), 9] for _ in range(8)]
    return [alarm.meet([write(w, drawn) for w in wanted], wanted) for _ in range(count)][-1]


def other(wanted, drawn):
    return [drawn.randrange(50), 9]


def same(wanted, drawn):
    return [3, 9]


def circles(wanted, drawn):
    return [wanted[0], 9, 9, 9, 9, 9, 9]


def right(wanted, drawn):
    return wanted


@pytest.mark.parametrize("end", [same, circles])
def test_a_planted_collapse_is_heard_once(end, caplog):
    alarm = CollapseAlarm(window=5)
    with caplog.at_level(logging.WARNING):
        assert steps(alarm, other, 12)["collapse"] == 0
        assert steps(alarm, end, 12)["collapse"] == 1
    assert [r.message.count("collapsing") for r in caplog.records] == [1]
    assert steps(alarm, right, 12)["collapse"] == 0, "it goes off again"


def test_learning_from_random_answers_to_right_ones_is_no_collapse():
    """Fifty answers become the data's four: fewer, and as many as there should be."""
    alarm = CollapseAlarm(window=5)
    assert steps(alarm, other, 12)["variety"] > 1.5
    now = steps(alarm, right, 12)
    assert now == {"variety": 1, "fresh": 1, "collapse": 0}


def test_one_answer_that_the_data_have_too_is_no_collapse():
    alarm = CollapseAlarm(window=5)
    steps(alarm, other, 6, words=1)
    assert steps(alarm, same, 12, words=1)["collapse"] == 0


def test_it_goes_on_after_a_kill():
    whole, cut = CollapseAlarm(window=4), CollapseAlarm(window=4)
    assert cut.state() == {}
    for alarm in (whole, cut):
        steps(alarm, other, 6)
    again = CollapseAlarm(window=4)
    again.load(cut.state())
    assert again.state().keys() == {"alarm-first", "alarm-last"}
    assert torch.equal(again.state()["alarm-last"], whole.state()["alarm-last"])
    heard = [[steps(a, same, 1)["collapse"] for _ in range(6)] for a in (whole, again)]
    assert heard[0] == heard[1]
    assert heard[0][-1] == 1
