"""Merges at the end of a stage and averages within it, against loops written out."""

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.pieces.averaging import Average, moments
from holdfast.pieces.edits import Interpolate
from holdfast.pieces.merge_edits import Arithmetic, Spherical, Ties
from holdfast.pieces.merging import TaskVectors, slerp

torch.set_num_threads(1)


def _weights(seed, dtype=torch.float32):
    torch.manual_seed(seed)
    return {"a": torch.randn(6, 4).to(dtype), "b": torch.randn(5).to(dtype)}


@pytest.mark.parametrize("anchor", ["previous", "base", "both"])
def test_below_one_it_is_an_interpolation(anchor):
    tuned, start, base = (_weights(i) for i in range(3))
    ours = Arithmetic(scale=0.3, anchor=anchor)(tuned, start, base)
    theirs = Interpolate(alpha=0.7, anchor=anchor)(tuned, start, base)
    for name in tuned:
        torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ends_to_the_bit(dtype):
    tuned, start, base = (_weights(i, dtype) for i in range(3))
    for edit, wanted in (
        (Arithmetic(scale=1.0), tuned),
        (Arithmetic(scale=0.0), start),
        (Arithmetic(scale=0.0, anchor="base"), base),
        (Spherical(t=1.0), tuned),
        (Spherical(t=0.0), start),
    ):
        found = edit(tuned, start, base)
        assert all(torch.equal(found[n], wanted[n]) and found[n].dtype == dtype for n in tuned)


def test_slerp_of_a_stage():
    tuned, start, base = (_weights(i) for i in range(3))
    found = Spherical(t=0.25)(tuned, start, base)
    assert all(torch.equal(found[n], slerp(start[n], tuned[n], 0.25)) for n in tuned)


def test_dare_drops_elsewhere_in_every_stage_and_the_same_after_a_restart():
    tuned, start, base = (_weights(i) for i in range(3))
    first = Arithmetic(drop=0.5, name="dare").recall({})
    second = first.recall(first.keep(None))
    assert second.stages == 1
    one, two = (edit(tuned, start, base)["a"] for edit in (first, second))
    assert torch.equal(one, first.recall({})(tuned, start, base)["a"])
    assert not torch.equal(one == start["a"], two == start["a"])
    kept = one != start["a"]
    wanted = (start["a"] + 2 * (tuned["a"] - start["a"]))[kept]
    torch.testing.assert_close(one[kept], wanted)


def test_ties_over_three_stages_is_ties_of_the_three_changes():
    base = _weights(0)
    steps = [{n: 0.1 * v for n, v in _weights(i).items()} for i in (1, 2, 3)]
    edit, state, now, taus = Ties(density=0.5, scale=0.8), {}, dict(base), []
    for step in steps:
        edit = Ties(density=0.5, scale=0.8).recall(state)
        tuned = {n: now[n] + step[n] for n in now}
        taus.append({n: tuned[n] - now[n] for n in now})
        now = edit(tuned, now, base)
        state = edit.keep(None)
    merge = TaskVectors(density=0.5, elect=True)

    def read(name):
        return torch.zeros_like(base[name]), [tau[name] for tau in taus]

    merge = merge.survey(list(base), read)
    for name in base:
        torch.testing.assert_close(now[name], base[name] + 0.8 * merge(name, *read(name)))
    assert len(state) == 6


def test_a_weight_that_earlier_stages_left_alone_counts_zero_there():
    base = _weights(0)
    first = Ties(density=1.0)
    only = {"a": base["a"] + 1}
    first(only, {"a": base["a"]}, {"a": base["a"]})
    second = Ties(density=1.0).recall(first.keep(None))
    tuned = {n: v + 2 for n, v in base.items()}
    found = second(tuned, base, base)
    torch.testing.assert_close(found["a"], base["a"] + 1.5)
    torch.testing.assert_close(found["b"], base["b"] + 2)


def test_names_must_be_the_same():
    tuned, start = _weights(0), _weights(1)
    for edit in (Arithmetic(), Spherical(), Ties()):
        with pytest.raises(UsageError, match="counterpart"):
            edit(tuned, {"a": start["a"]}, start)


def test_when_sfa_averages():
    assert moments(8, 0.25) == {2, 4, 6, 8}
    assert moments(10, 0.25) == {2, 5, 8, 10}  # round(2.5), 5, round(7.5), 10
    assert moments(8, 1.0) == {8}
    assert moments(3, 0.1) == {1, 2, 3}
    assert moments(7, 0.3) == {2, 4, 6, 7}


def test_sfa_is_gradient_descent_with_pulls_written_out():
    """On a quadratic, with the optimizer's step done by hand; the same after a restart."""
    target, rate, steps = torch.tensor([2.0, -1.0]), 0.1, 8

    def loop(edit, weight, done, until):
        parameters = {"w": weight}
        edit.begin(done, steps)
        for _ in range(done, until):
            weight -= rate * (weight - target)
            edit.after_step(parameters)
        return weight

    start = torch.tensor([5.0, 5.0])
    wanted = start.clone()
    for step in range(1, steps + 1):
        wanted = wanted - rate * (wanted - target)
        if step in (2, 4, 6, 8):
            wanted = 0.7 * wanted + 0.3 * start
    edit = Average(beta=0.3, period=0.25)
    edit.anchor({"w": start})
    torch.testing.assert_close(loop(edit, start.clone(), 0, steps), wanted)
    half = loop(edit, start.clone(), 0, 5)
    again = Average(beta=0.3, period=0.25)
    again.anchor({"w": start})
    torch.testing.assert_close(loop(again, half, 5, steps), wanted)


def test_sfa_refuses_a_part_of_a_weight():
    edit = Average(beta=0.5, period=1.0)
    edit.anchor({"w": torch.zeros(4)})
    edit.begin(0, 1)
    with pytest.raises(UsageError, match="FSDP"):
        edit.after_step({"w": torch.zeros(2)})
