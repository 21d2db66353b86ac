"""Frozen rows of fused weights stay as they were, to the bit, under every optimizer state."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from holdfast.anatomy import anatomy
from holdfast.pieces.rows import KeepRows
from holdfast.plan import Update

torch.set_num_threads(1)

SIZES = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2}
DEEP = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}


def _phi3() -> nn.Module:
    return Phi3ForCausalLM(Phi3Config(**SIZES, **DEEP, num_key_value_heads=2, pad_token_id=0))


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(**SIZES, n_embd=16, n_layer=2, n_head=4, n_positions=32))


def _neox() -> nn.Module:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, **DEEP))


@pytest.mark.parametrize("make", [_phi3, _gpt2, _neox])
@pytest.mark.parametrize("selector", ["vo", "qkv", "language[1].attn.q"])
def test_only_the_selected_rows_move(make: object, selector: str) -> None:
    torch.manual_seed(0)
    model: nn.Module = make()  # type: ignore[operator]
    selection = anatomy(model).select(selector)
    masks = selection.masks(model)
    named = dict(model.named_parameters())
    before = {n: p.detach().clone() for n, p in named.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.3)
    ids = torch.randint(3, 40, (2, 9))
    _step(model, optimizer, ids)  # momentum and second moments from before the freeze
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(before[name])
    selection.apply(model)
    keep: Update = KeepRows.of(selection, model)
    assert isinstance(keep, KeepRows)
    trainable = {n: p for n, p in named.items() if p.requires_grad}
    for _ in range(3):
        _step(model, optimizer, ids, keep, trainable)
    for name, p in trainable.items():
        free = masks[name].expand_as(p) if name in masks else torch.ones_like(p, dtype=torch.bool)
        assert torch.equal(p.detach()[~free], before[name][~free]), name
        assert not torch.equal(p.detach()[free], before[name][free]), name


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ids: torch.Tensor,
    keep: KeepRows | None = None,
    trainable: dict[str, nn.Parameter] | None = None,
) -> None:
    optimizer.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    if keep is not None and trainable is not None:
        keep.before_step(trainable)
        for name, mask in keep.masks.items():
            grad = trainable[name].grad
            assert grad is not None
            assert not grad[~mask.expand_as(grad)].any()
            assert grad[mask.expand_as(grad)].any()
    optimizer.step()
    if keep is not None and trainable is not None:
        keep.after_step(trainable)


def test_the_selected_rows_train_as_they_would_alone() -> None:
    """Fused and masked equals two separate layers of which one is frozen (AdamW, weight decay)."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 4), torch.randn(8, 6)
    fused = nn.Linear(4, 6, bias=False)
    first, second = nn.Linear(4, 2, bias=False), nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        first.weight.copy_(fused.weight[:2])
        second.weight.copy_(fused.weight[2:])
    mask = (torch.arange(6) < 2).view(6, 1)
    keep = KeepRows(masks={"weight": mask})
    together = torch.optim.AdamW(fused.parameters(), lr=1e-2, weight_decay=0.3)
    alone = torch.optim.AdamW(first.parameters(), lr=1e-2, weight_decay=0.3)
    for _ in range(5):
        together.zero_grad()
        ((fused(x) - y) ** 2).mean().backward()
        keep.before_step({"weight": fused.weight})
        together.step()
        keep.after_step({"weight": fused.weight})
        alone.zero_grad()
        ((torch.cat([first(x), second(x).detach()], 1) - y) ** 2).mean().backward()
        alone.step()
    torch.testing.assert_close(fused.weight[:2], first.weight, atol=1e-7, rtol=1e-6)
    assert torch.equal(fused.weight[2:], second.weight)


def test_other_weights_are_left_alone() -> None:
    keep = KeepRows(masks={"a": torch.tensor([True, False])})
    a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
    a.grad, b.grad = torch.ones(2), torch.ones(2)
    keep.before_step({"a": a, "b": b})
    assert (a.grad.tolist(), b.grad.tolist()) == ([1.0, 0.0], [1.0, 1.0])
    with torch.no_grad():
        a -= 5
        b -= 5
    keep.after_step({"a": a, "b": b})
    assert (a.tolist(), b.tolist()) == ([-4.0, 1.0], [-4.0, -4.0])
