"""Predicted training FLOPs against torch's own counter, on real forward and backward passes."""

from __future__ import annotations

import pytest
import torch
from tiny_families import build
from torch.utils.flop_counter import FlopCounterMode

from holdfast.anatomy import anatomy
from holdfast.anatomy.cost import default_load, ratio
from holdfast.anatomy.flow import Load, flops

T = 24
TEXT = ("llama", "gpt2", "gpt_neox", "gpt_neox-serial", "phi3", "opt", "olmo2", "gemma3_text")
SELECTORS = (
    "full",
    "sa-proj",
    "gate-up",
    "down",
    "qkv",
    "last-1",
    "last-2 & language.attn",
    "language[1].norm",
    "language[1].attn.k",
    "language[2].mlp.up",
    "embed",
    "head",
    "last-2-lmmcl",
)


def counted(model, selection, batch):
    """FLOPs that torch counts for one training step with only ``selection`` trainable."""
    selection.apply(model)
    model.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as counter:
        loss = model(**batch).logits.float().square().sum()
        if loss.requires_grad:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", TEXT)
def test_text_models(name):
    model = build(name, "cpu")
    found = anatomy(model)
    load = Load(language=T, scores=True)
    batch = {"input_ids": torch.arange(T)[None] % 40, "use_cache": False}
    for text in SELECTORS:
        chosen = found.select(text)
        real = counted(model, chosen, batch)
        predicted = flops(found, frozenset(chosen.parameters), load).total
        assert predicted == pytest.approx(real, rel=0.01), text
