"""Quadratic anchors: closed forms of where two stages meet, and of many stages taken together."""

import pytest
import torch

from holdfast.carried import Ahead
from holdfast.pieces.anchors import NearStart, Quadratic
from holdfast.pieces.plateaus import Plateaus
from holdfast.pieces.task_free import TaskFree

torch.set_num_threads(1)


def known(term, **stages):
    """The term after stages of (importance, weight)."""
    for f, w in stages.values():
        term = term.recall(term.joined({"w": torch.tensor(f)}, {"w": torch.tensor(w)}))
    return term


def descend(loss, start, steps=4000, rate=0.02):
    w = torch.tensor(start, requires_grad=True)
    for _ in range(steps):
        (g,) = torch.autograd.grad(loss(w), w)
        w = (w - rate * g).detach().requires_grad_()
    return w.detach()


def test_two_quadratic_tasks_meet_where_the_closed_form_says():
    """h/2 (t - t2)^2 + lambda F/2 (t - t1)^2 is least at (h t2 + lambda F t1)/(h + lambda F)."""
    term = known(Quadratic(weight=0.5), first=([4.0], [-1.0]))
    got = descend(lambda w: (w - 3).square().sum() + 0.5 * term({"w": w}, {}), [0.0])
    torch.testing.assert_close(got, torch.tensor([1.0]), atol=1e-4, rtol=0)


def test_terms_of_all_stages_in_one():
    """Value and gradient of the sum of separate terms, also where an importance is 0."""
    stages = {
        "a": ([1.0, 0.0, 2.0], [0.5, 9.0, -1.0]),
        "b": ([3.0, 0.0, 0.0], [-2.0, 1.0, 7.0]),
        "c": ([0.5, 4.0, 0.0], [1.0, -1.0, 2.0]),
    }
    term = known(Quadratic(weight=1.0), **stages)
    w = torch.tensor([0.3, -0.7, 2.2], requires_grad=True)
    separate = sum(
        0.5 * (torch.tensor(f) * (w - torch.tensor(c)).square()).sum() for f, c in stages.values()
    )
    torch.testing.assert_close(term({"w": w}, {}), separate)
    torch.testing.assert_close(
        torch.autograd.grad(term({"w": w}, {}), w), torch.autograd.grad(separate, w)
    )


def test_online_decays_and_moves_its_centre():
    term = known(
        Quadratic(weight=1.0, combine="latest", decay=0.5, half=1.0),
        a=([2.0], [0.0]), b=([4.0], [1.0]),
    )  # fmt: skip
    assert term({"w": torch.tensor([3.0])}, {}).item() == pytest.approx((0.5 * 2 + 4) * 4)


def test_nothing_is_known_in_the_first_stage():
    w = torch.tensor([3.0], requires_grad=True)
    assert Quadratic(weight=1.0)({"w": w}, {}).item() == 0
    term = known(Quadratic(weight=1.0), a=([1.0], [0.0]))
    assert term.recall({})({"w": w}, {}).item() == 0
    assert "importance" not in repr(term)


def test_l2_sp_is_the_distance_to_the_start():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    start = {"w": torch.tensor([0.0, 4.0])}
    assert NearStart()({"w": w}, start).item() == pytest.approx(2.5)
    ones = Quadratic(weight=1.0, importances={"w": torch.ones(2)}, centres=start)
    torch.testing.assert_close(ones({"w": w}, {}), NearStart()({"w": w}, start))


def test_a_trace_with_two_plateaus_consolidates_twice():
    trace = [2.0, 1.0, 0.5] + [0.1, 0.11, 0.09, 0.1] * 3 + [1.5, 1.0, 0.4] + [0.05] * 12
    watch = Plateaus(window=4, mean=0.2, deviation=0.05)
    assert [i for i, loss in enumerate(trace) if watch.meet(loss)] == [6, 21]
    again = Plateaus(window=4, mean=0.2, deviation=0.05)
    for loss in trace[:10]:
        again.meet(loss)
    resumed = Plateaus(window=4, mean=0.2, deviation=0.05)
    resumed.read(again.numbers())
    assert [i for i, loss in enumerate(trace[10:], 10) if resumed.meet(loss)] == [21]
    with pytest.raises(ValueError, match="a window of 1"):
        Plateaus(window=1)


def test_task_free_is_mas_at_the_plateau_and_survives_a_checkpoint():
    def step(loss):
        model = torch.nn.Linear(2, 2, bias=False)
        model.weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
        model.forward = lambda input_ids, attention_mask=None, use_cache=None: type(
            "O", (), {"logits": torch.nn.functional.linear(eye[input_ids], model.weight)}
        )()
        batch = {"input_ids": torch.tensor([[0, 1], [1, 1]]), "labels": torch.ones(2, 2).long()}
        losses = lambda batches: [torch.tensor([loss, loss / 2])]  # noqa: E731
        return Ahead(model, dict(model.named_parameters()), [batch], 0.1, None, losses)

    eye = torch.eye(2)
    term = TaskFree(weight=2.0, window=2, mean=1.0, deviation=0.5, buffer=1)
    for loss in (3.0, 0.2):
        term.look_ahead(step(loss))
    assert term.found == 0
    copy = TaskFree(weight=2.0, window=2, mean=1.0, deviation=0.5, buffer=1)
    copy.load(term.state())
    for one in (term, copy):
        assert len(one.hard) == 1
        here = step(0.2)
        one.look_ahead(here)
        assert one.found == 1
        assert not one.hard
        # the hardest row predicts from token 0 only: |2 y_i x_j| with y = first column
        torch.testing.assert_close(
            one.importances["weight"], torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        )
        moved = here.parameters["weight"] + 1
        assert one({"weight": moved}, {}).item() == pytest.approx(2.0)


def test_task_free_as_the_authors_code_keeps_its_buffer_and_reads_its_losses_anew():
    """kkelchte/task_free_continual_learning d0801c3, method.py: Omega is the sum over the buffer
    of |d |f(x)| / d w|, half of the penalty counts, and the window's variance is compared."""
    eye = torch.eye(2)
    model = torch.nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[3.0, 2.0], [4.0, -1.0]])
    model.forward = lambda input_ids, attention_mask=None, use_cache=None: type(
        "O", (), {"logits": torch.nn.functional.linear(eye[input_ids], model.weight)}
    )()
    now = {"easy": 0.5, "hard": 0.9}

    def step():
        batch = {"input_ids": torch.tensor([[0, 1], [1, 1]]), "labels": torch.ones(2, 2).long()}

        def losses(passes):
            named = {0: now["easy"], 1: now["hard"]}
            return [torch.tensor([named[int(r[0])] for r in p["input_ids"]]) for p in passes]

        return Ahead(model, dict(model.named_parameters()), [batch], 0.1, None, losses)

    settings = {"window": 2, "mean": 1.0, "deviation": 0.1, "buffer": 3, "code_compat": True}
    term = TaskFree(weight=2.0, **settings)
    term.look_ahead(step())
    assert [loss for loss, _ in term.hard] == pytest.approx([0.9, 0.5])
    now.update(easy=0.7, hard=0.1)  # deviation 0.15: above 0.1, its square is below
    term.look_ahead(step())
    assert term.found == 1
    assert [loss for loss, _ in term.hard] == pytest.approx([0.7, 0.7, 0.1])
    ours = torch.tensor([[3 / 5, 2 / 5**0.5], [4 / 5, 1 / 5**0.5]])
    torch.testing.assert_close(term.importances["weight"], ours)
    moved = {"weight": model.weight.detach() + 1}
    assert 2 * term(moved, {}).item() == pytest.approx(2 / 2 * ours.sum().item())
