"""Synaptic intelligence: the path integral against a slow loop and against the loss itself."""

import pytest
import torch

from holdfast.carried import Ended
from holdfast.methods import method
from holdfast.pieces.path_integral import PathIntegral

torch.set_num_threads(1)
G = torch.Generator().manual_seed(0)
HALF = torch.randn(6, 6, generator=G)
H = HALF @ HALF.T / 6
AT = torch.randn(6, generator=G)


def loss(w):
    return (w - AT) @ H @ (w - AT) / 2


def walk(term, *, steps=50, rate=1e-3, decay=0.1, clip=None, start=None, after=None):
    """AdamW on the quadratic plus the term; returns the weight and a slow loop's numbers."""
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.zeros(6) if start is None else start.clone())
    w = {"w": model.w}
    optimizer = torch.optim.AdamW(w.values(), lr=rate, weight_decay=decay)
    omega, moved = torch.zeros(6), torch.zeros(6)
    for step in range(steps):
        optimizer.zero_grad()
        (loss(model.w) + term.weight * term(w, {})).backward()
        term.before_step(w)
        if clip:
            torch.nn.utils.clip_grad_norm_(w.values(), clip)
        was, g = model.w.detach().clone(), H @ (model.w.detach() - AT)
        optimizer.step()
        term.after_step(w)
        omega += -g * (model.w.detach() - was)
        moved += model.w.detach() - was
        if after is not None and step == after:
            held, term.path, term.moved = term.state(), {}, {}
            term.load(held)
    return model, omega, moved


def ended(model, stage=1):
    return Ended(stage, 0, model.eval(), ("w",), range(3), list)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_it_is_a_slow_loop_under_adamw_with_clipping_and_decay(clip):
    term = PathIntegral(weight=0.5, damping=0.01, clamp=False)
    model, omega, moved = walk(term, clip=clip, after=20)
    torch.testing.assert_close(term.path["w"], omega, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(term.moved["w"], moved, atol=1e-6, rtol=1e-4)
    held = term.keep(ended(model))
    torch.testing.assert_close(
        held["importance/w"], omega / (moved.square() + 0.01), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(held["centre/w"], model.w.detach())


def test_the_path_integral_is_what_the_loss_fell_by():
    """A fake that takes rate * g^2 in place of the move, or a clipped gradient, does not add up."""
    term = PathIntegral(weight=0.5)
    model, _, _ = walk(term, steps=400, rate=1e-3, clip=0.01)
    fell = float(loss(torch.zeros(6)) - loss(model.w.detach()))
    assert fell > 0.1
    assert float(term.path["w"].sum()) == pytest.approx(fell, rel=0.02)


def test_the_penalty_has_no_part_in_it_and_importances_add_up():
    first = PathIntegral(weight=3.0, damping=0.01)
    model, omega, moved = walk(first)
    before = (omega / (moved.square() + 0.01)).clamp(min=0)
    second = first.recall(first.keep(ended(model)))
    assert not second.path
    torch.testing.assert_close(second.importances["w"], before, atol=1e-5, rtol=1e-4)
    start = model.w.detach() + 1.0
    model, omega, moved = walk(second, start=start)
    kept = second.keep(ended(model, 2))
    both = (before + omega / (moved.square() + 0.01)).clamp(min=0)
    torch.testing.assert_close(kept["importance/w"], both, atol=1e-4, rtol=1e-3)
    w = torch.tensor([1.0, 2, 3, 4, 5, 6])
    third = second.recall(kept)
    expected = (both * (w - model.w.detach()).square()).sum()
    torch.testing.assert_close(third({"w": w}, {}), expected, atol=1e-2, rtol=1e-3)


def test_the_plan_holds_one_object_in_both_slots():
    plan = method("si", weight=0.3)
    assert plan.learn[0] is plan.update[0]
    assert not method("si", weight=0.0).learn
