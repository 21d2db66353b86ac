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
TEXT = ("llama", "gpt2", "gpt_neox", "gpt_neox-serial", "phi3", "opt", "gemma3_text")
SELECTORS = (
    "full",
    "sa-proj",
    "gate-up",
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


def picture(kind, size=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, size, size, generator=generator)


def one_image(tokens, text=10, **more):
    """A prompt with ``tokens`` image tokens (id 39) and ``text`` others."""
    ids = torch.cat([torch.full((tokens,), 39), torch.arange(text) + 3])[None]
    return {"input_ids": ids, "use_cache": False} | more


VLM = {
    "llava": lambda: one_image(4, pixel_values=picture("clip")),
    "llava-phi3-pixtral": lambda: (
        one_image(4, pixel_values=picture("p")) | {"image_sizes": torch.tensor([[16, 16]])}
    ),
    "llava-gpt_neox": lambda: one_image(3, pixel_values=picture("siglip")),
    "idefics3": lambda: one_image(1, pixel_values=picture("siglip")[None]),
    "qwen2_vl": lambda: one_image(
        4,
        pixel_values=torch.randn(16, 96),
        image_grid_thw=torch.tensor([[1, 4, 4]]),
        mm_token_type_ids=torch.tensor([[1] * 4 + [0] * 10]),
    ),
    "qwen3_vl": lambda: one_image(
        4,
        pixel_values=torch.randn(16, 96),
        image_grid_thw=torch.tensor([[1, 4, 4]]),
        mm_token_type_ids=torch.tensor([[1] * 4 + [0] * 10]),
    ),
}
LOADS = {
    "llava": (14, 5, 4),
    "llava-phi3-pixtral": (14, 4, 4),
    "llava-gpt_neox": (13, 4, 3),
    "idefics3": (11, 4, 1),
    "qwen2_vl": (14, 16, 4),
    "qwen3_vl": (14, 16, 4),
}
VLM_SELECTORS = (
    "full",
    "full-llm",
    "sa-proj",
    "projector",
    "vision",
    "vision[0].attn.q",
    "vision.embed",
    "projector + last-1",
)


@pytest.mark.parametrize("name", VLM)
def test_vision_language_models(name):
    model = build(name, "cpu")
    found = anatomy(model)
    language, vision, projector = LOADS[name]
    load = Load(language, vision, projector, images=1, scores=True)
    for text in VLM_SELECTORS:
        chosen = found.select(text)
        real = counted(model, chosen, VLM[name]())
        predicted = flops(found, frozenset(chosen.parameters), load).total
        assert predicted == pytest.approx(real, rel=0.01), text


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "qwen2_moe", "gpt_oss", "falcon", "phi"])
def test_experts_and_odd_blocks(name):
    model = build(name, "cpu")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    found = anatomy(model)
    load = Load(language=T, scores=True)
    batch = {"input_ids": torch.arange(T)[None] % 40, "use_cache": False}
    for text in ("full", "sa-proj", "gate-up", "down", "last-1", "embed", "head"):
        chosen = found.select(text)
        real = counted(model, chosen, batch)
        predicted = flops(found, frozenset(chosen.parameters), load).total
        assert predicted == pytest.approx(real, rel=0.01), text


@pytest.mark.parametrize("name", ["vit", "resnet", "resnet-bottleneck", "dinov2"])
def test_vision_models(name):
    model = build(name, "cpu")
    found = anatomy(model)
    size = 16 if "resnet" not in name else 64
    positions = 5 if "resnet" not in name else 64 * 64
    load = Load(0, positions, 0, images=1, scores=True)
    for text in ("vision", "vision[-1:]", "vision.head", "vision.embed", "vision.norm"):
        chosen = found.select(text)
        real = counted(model, chosen, {"pixel_values": picture("", size)})
        predicted = flops(found, frozenset(chosen.parameters), load).total
        assert predicted == pytest.approx(real, rel=0.01), text


def test_ratio_is_the_published_formula_on_a_large_model():
    """R = (1 + d + w) / 3 for Qwen2-7B by hand, with d = 0 below the lowest trained weight."""
    from transformers import Qwen2Config

    config = Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False,
    )  # fmt: skip
    found = anatomy(config)
    block, head = 233_046_016, 152064 * 3584
    matrices = 28 * block + head
    attention, wide = 28 * 29_360_128, 28 * 2 * 3584 * 18944
    for text, backward, own in (
        ("full", matrices, matrices),
        ("sa-proj", matrices, attention),
        ("gate-up", matrices - (attention + wide) / 28, wide),
        ("last-4", 4 * block + head, 4 * block),
        ("head", 0, head),
    ):
        expected = (1 + backward / matrices + own / matrices) / 3
        assert found.flops_ratio(found.select(text)) == pytest.approx(expected, rel=0.002), text


def test_row_masks_save_neither_memory_nor_time():
    found = anatomy(build("phi3"))
    part, whole = found.select("language.attn.q"), found.select("language.attn.q+k+v")
    assert part.count < whole.count
    assert found.memory(part) == found.memory(whole)
    assert ratio(found, part) == ratio(found, whole)


def test_memory_follows_sixteen_bytes_for_each_trainable_element():
    found = anatomy(build("llama"))
    chosen = found.select("sa-proj")
    memory = found.memory(chosen)
    frozen = found.count - chosen.count
    assert memory.optimizer == 8 * chosen.count
    assert memory.total == 16 * chosen.count + 2 * frozen


def test_default_load_counts_image_tokens():
    load = default_load(anatomy(build("llava")), text=10)
    assert (load.language, load.vision, load.projector) == (14, 5, 4)
    assert default_load(anatomy(build("llama")), text=10).language == 10
