"""SparCL's masks after every step, under AdamW; what is removed, and when."""

import math

import pytest
import torch
from torch import nn

from holdfast.anatomy import anatomy
from holdfast.carried import Ahead
from holdfast.errors import SelectorError
from holdfast.methods import method
from holdfast.pieces.sparse import EasyLeftOut, SparseSteps, largest
from holdfast.plan import NEW, Outputs, source_id
from holdfast.testing import tiny_llama

NAME = "model.layers.0.mlp.up_proj.weight"


def placed(**settings):
    piece = SparseSteps(select="language.mlp", **{"period": 4, "refresh": 3, **settings})
    piece.place(anatomy(tiny_llama().model))
    return piece


def run(piece, steps, weight=None, seen=None):
    """Steps of AdamW with decay on one matrix with random gradients."""
    g = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(24, 16, generator=g)) if weight is None else weight
    optimizer = torch.optim.AdamW([weight], lr=0.05, weight_decay=0.3)
    for _ in range(steps):
        weight.grad = torch.randn(24, 16, generator=g)
        before = weight.detach().clone()
        piece.before_step({NAME: weight})
        gradient = weight.grad.clone()
        optimizer.step()
        piece.after_step({NAME: weight})
        if seen is not None:
            seen.append((before, gradient, weight.detach().clone()))
    return weight


def test_sparsity_at_every_step_and_where_it_dips():
    seen = []
    run(placed(margin=0.05, updates=3, gradient_sparsity=0.0), 20, seen=seen)
    zeros = [float((w == 0).float().mean()) for _, _, w in seen]
    # update 0 leaves room for the new task; then 1 - s; what grows begins at 0 and moves at once
    assert zeros == pytest.approx([0.70] * 4 + [0.75] * 16, abs=0.01)
    masks = [w == 0 for _, _, w in seen]
    assert not torch.equal(masks[4], masks[8])  # explores: a fake prunes once
    assert torch.equal(masks[12], masks[19])  # fixed after the last update


def test_first_by_size_then_by_size_and_gradient():
    piece = placed(margin=0.0, gradient_sparsity=0.0, factor=0.5)
    seen = []
    run(piece, 5, seen=seen)
    before, _, after = seen[0]
    assert torch.equal(after != 0, largest(before.abs(), 96))
    assert piece.densities(0) == (0.25, 0.25)
    assert SparseSteps(select="x").densities(1) == pytest.approx((0.24, 0.25))
    assert SparseSteps(select="x").densities(0) == pytest.approx((0.25, 0.26))


def test_only_the_largest_gradients_move_until_the_next_refresh():
    seen = []
    run(placed(sparsity=0.0, gradient_sparsity=0.8), 9, seen=seen)
    moved = [before != after for before, _, after in seen]
    for gradient, now in zip((g for _, g, _ in seen), moved, strict=True):
        assert int((gradient != 0).sum()) == round(0.2 * 384)
        assert torch.equal(now, gradient != 0)  # neither momentum nor decay moves the others
    assert torch.equal(moved[0], moved[2])
    assert not torch.equal(moved[2], moved[3])


def test_a_killed_stage_goes_on():
    whole, first, second = placed(), placed(), placed()
    wanted = []
    run(whole, 10, seen=wanted)
    part = []
    g = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(24, 16, generator=g))
    optimizer = torch.optim.AdamW([weight], lr=0.05, weight_decay=0.3)
    for step in range(10):
        piece = first if step < 6 else second
        if step == 6:
            second.load({n: v.clone() for n, v in first.state().items()})
        weight.grad = torch.randn(24, 16, generator=g)
        piece.before_step({NAME: weight})
        optimizer.step()
        piece.after_step({NAME: weight})
        part.append(weight.detach().clone())
    for (_, _, a), b in zip(wanted, part, strict=True):
        assert torch.equal(a, b)


def test_a_mask_needs_a_matrix():
    with pytest.raises(SelectorError, match="selects no matrix"):
        SparseSteps(select="language.norm").place(anatomy(tiny_llama().model))


def shown(piece, right):
    """One step that reads every example: ``right`` says which the model gets right."""
    n = len(right)
    batch = {
        "input_ids": torch.arange(n)[:, None].repeat(1, 3),
        "labels": torch.zeros(n, 3, dtype=torch.long),
        "source": torch.full((n,), source_id(NEW)),
        "example": torch.arange(n),
    }
    step = Ahead(None, {}, [batch], 0.1, lambda b: {}, lambda b: [])
    piece.look_ahead(step)
    left = step.batches[0]["example"].tolist()
    rows = torch.arange(len(left)).repeat_interleave(2)
    examples = torch.tensor(left).repeat_interleave(2)
    targets = torch.ones(len(rows), dtype=torch.long)
    logits = torch.zeros(len(rows), 3)
    for i, e in enumerate(examples.tolist()):
        logits[i, 1 if right[e] else 2] = 5.0
    logits[::2] = torch.tensor([0.0, 5.0, 0.0])  # the first token is right in any case
    sources = torch.full((len(rows),), source_id(NEW))
    piece(Outputs(logits, targets, rows, None, sources, examples))
    return left


def test_the_easiest_leave_in_equal_chunks():
    piece = EasyLeftOut(share=0.5, times=2, period=3)
    piece.place(anatomy(tiny_llama().model))
    # 0-3 always right, 4-5 forgotten once, 6-7 never right
    turns = [[True] * 6 + [False] * 2, [True] * 4 + [False] * 4, [True] * 6 + [False] * 2]
    lengths = [shown(piece, turns[t % 3]) for t in range(12)]
    assert [len(x) for x in lengths] == [8] * 3 + [6] * 3 + [4] * 6
    assert lengths[3] == [2, 3, 4, 5, 6, 7]  # ids 0 and 1 have the lowest counts
    assert lengths[-1] == [4, 5, 6, 7]


def test_counts_of_forgetting():
    piece = EasyLeftOut()
    for right in (False, True, False, True, False, False):
        piece._note(0, right)
        piece._note(1, False)
    assert piece._lost == {0: 2, 1: math.inf}
    again = EasyLeftOut()
    again.load(piece.state())
    assert (again._lost, again._right) == (piece._lost, piece._right)


def test_images_are_kept_and_their_examples_not_learned():
    piece = EasyLeftOut()
    piece._gone = {1}
    batch = {
        "input_ids": torch.zeros(2, 3), "labels": torch.zeros(2, 3, dtype=torch.long),
        "pixel_values": torch.zeros(2, 3), "example": torch.arange(2),
        "source": torch.zeros(2, dtype=torch.long),
    }  # fmt: skip
    left = piece._left(batch)
    assert left["labels"].tolist() == [[0] * 3, [-100] * 3]
    assert len(left["pixel_values"]) == 2


def test_nothing_sparse_changes_nothing():
    made = method("sparcl:sparsity=0,gradient_sparsity=0,removal=0")
    assert (made.update, made.learn, made.feed) == ((), (), None)


def test_what_is_removed_is_not_read(tmp_path):
    """Through the engine: passes shrink, and the loss stays that of fine-tuning."""
    from holdfast.config import Train
    from holdfast.engine.stage import train_stage
    from holdfast.methods import plan

    g = torch.Generator().manual_seed(0)
    rows = [
        {"input_ids": i, "labels": i.clone(), "attention_mask": torch.ones_like(i)}
        for i in torch.randint(3, 40, (8, 6), generator=g)
    ]

    def trained(methods):
        read, logged = [], []
        model = tiny_llama().model
        model.model.layers[-1].mlp.register_forward_pre_hook(
            lambda module, inputs: read.append(len(inputs[0]))
        )
        train_stage(
            plan(methods), model, rows,
            lambda batch: {k: torch.stack([r[k] for r in batch]) for k in batch[0]},
            Train(
                learning_rate=1e-3, steps=6, batch_size=8, micro_batch_size=8, packing="off",
                cache="off",
            ),
            folder=tmp_path / str(len(methods)), seed=1, base_weights={},
            advance=lambda done, total: None, note=logged.append,
        )  # fmt: skip
        return read, [row["loss"] for row in logged]

    read, loss = trained(["mlp", "sparcl:sparsity=0,gradient_sparsity=0,removal=0.5,period=1"])
    assert read[0] == 8
    assert read[-1] == 4
    plain, expected = trained(["mlp"])
    assert set(plain) == {8}
    assert loss[0] == pytest.approx(expected[0], rel=1e-4)
