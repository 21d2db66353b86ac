"""What is said about a change, and how often it is said wrongly."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.changes.paired import Pairs
from holdfast.changes.verdict import by_repeating, gate, holm, judge
from holdfast.errors import UsageError


def pairs(lost: int, gained: int, n: int) -> Pairs:
    before, after = np.ones(n), np.ones(n)
    after[:lost] = 0
    before[lost : lost + gained] = 0
    return Pairs(before, after)


def verdict(lost: int, gained: int, n: int, **more: object) -> str:
    (found,) = judge({"t": pairs(lost, gained, n)}, **more)  # type: ignore[arg-type]
    return found.verdict


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_verdicts() -> None:
    assert verdict(0, 0, 20) == "unchanged"
    assert verdict(30, 2, 100) == "worse"
    assert verdict(2, 30, 100) == "better"
    assert verdict(3, 1, 100) == "undecided"
    assert verdict(100, 100, 100_000) == "unchanged"  # within a point, whatever flips


def test_as_many_flips_as_by_repeating_is_no_change() -> None:
    assert verdict(3, 1, 100) == "undecided"
    assert verdict(3, 1, 100, noise={"t": 0}) == "undecided"
    assert verdict(3, 1, 100, noise={"t": 4}) == "unchanged"
    assert verdict(9, 11, 100, noise={"t": 1}) == "undecided"


def test_a_lean_to_one_side_is_never_noise() -> None:
    """Noise flips answers either way: 20 lost and none gained is a loss, whatever the noise."""
    assert verdict(20, 0, 100, noise={"t": 20}) == "worse"
    assert gate({"t": pairs(20, 0, 100)}, 1.0, noise={"t": 20}).gate == "fail"


def test_what_repeating_brings_is_drawn_as_it_is_computed() -> None:
    """A share that the first count leaves open, then flips of it, each to either side."""
    rng = np.random.default_rng(0)
    n, noise, lost, gained = 200, 6, 9, 4
    share = rng.beta(noise + 0.5, n - noise + 0.5, size=200_000)
    flips = rng.binomial(n, share)
    net = np.abs(2 * rng.binomial(flips, 0.5) - flips)
    wanted = 2 * min(np.mean(flips >= lost + gained), np.mean(net >= lost - gained))
    assert by_repeating(pairs(lost, gained, n), noise) == pytest.approx(wanted, rel=0.03)


def test_hardly_an_answer_flipped() -> None:
    assert verdict(1, 0, 100) == "unchanged"
    assert verdict(1, 2, 200) == "unchanged"
    assert verdict(1, 0, 24) == "undecided"  # four points
    assert verdict(2, 0, 100) == "undecided"  # two points
    assert verdict(6, 6, 100) == "undecided"  # no change, but far more than one in a hundred flip


def test_undecided_names_a_number_that_decides() -> None:
    """With as many examples as named, the same shares are found in at least 7 of 10 draws."""
    (found,) = judge({"t": pairs(6, 2, 100)})
    assert found.verdict == "undecided"
    assert found.needed is not None
    assert f"{found.needed:,}" in found.why
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(found.needed, [0.06, 0.02, 0.92], size=200)
    said = [verdict(int(a), int(b), found.needed) for a, b, _ in drawn]
    assert np.mean([s == "worse" for s in said]) >= 0.7


def test_nothing_at_all_is_rarely_called_a_change() -> None:
    """Ten tasks whose answers flip either way with equal chance: any alarm in under 5 %."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        tasks = {}
        for t in range(10):
            flips = rng.binomial(100, 0.1)
            lost = rng.binomial(flips, 0.5)
            tasks[str(t)] = pairs(int(lost), int(flips - lost), 100)
        alarms += any(j.verdict in ("worse", "better") for j in judge(tasks))
    assert alarms <= 12  # 5 % of 200 and three standard errors would be 19; exact tests are safe


@pytest.mark.parametrize("share", [0.0, 0.003, 0.02, 0.1])
def test_an_evaluation_that_is_noisy_is_called_unchanged(share: float) -> None:
    """One model asked three times: each asking flips a share of the answers either way. The
    second measures the noise, the third is taken for another model's."""
    rng = np.random.default_rng(2)
    said = []
    for _ in range(200):
        flips, noise = rng.binomial(400, share), rng.binomial(400, share)
        lost = rng.binomial(flips, 0.5)
        said.append(verdict(int(lost), int(flips - lost), 400, noise={"t": int(noise)}))
    assert np.mean([s == "unchanged" for s in said]) >= 0.95


def test_more_tasks_make_an_alarm_harder() -> None:
    alone = judge({"t": pairs(8, 0, 100)})[0]
    among = judge({"t": pairs(8, 0, 100), **{str(k): pairs(0, 0, 100) for k in range(19)}})[0]
    assert alone.verdict == "worse"
    assert among.verdict == "undecided"


def test_the_gate() -> None:
    assert gate({"t": pairs(0, 0, 50)}, 1.0).gate == "pass"
    assert gate({"t": pairs(0, 0, 0)}, 1.0).gate == "undecided"
    assert gate({"t": pairs(30, 0, 100)}, 1.0).gate == "fail"
    undecided = gate({"t": pairs(2, 0, 100)}, 1.0)
    assert undecided.gate == "undecided"
    assert undecided.needed
    assert undecided.needed > 100
    assert gate({"t": pairs(20, 20, 10_000)}, 1.0).gate == "pass"
    assert gate({"t": pairs(2, 0, 100)}, 1.0, noise={"t": 2}).gate == "pass"


def test_the_gate_holds_the_mean_over_tasks() -> None:
    """A large loss on one of ten tasks is a tenth of it on the mean."""
    tasks = {"bad": pairs(300, 0, 1000), **{str(k): pairs(0, 0, 1000) for k in range(9)}}
    found = gate(tasks, 5.0)
    assert found.loss.value == pytest.approx(3.0)
    assert found.gate == "pass"
    assert gate(tasks, 2.0).gate == "fail"


def test_a_limit_that_is_no_share_is_refused() -> None:
    with pytest.raises(UsageError, match="between 0 and 100"):
        gate({"t": pairs(0, 0, 5)}, -1.0)
