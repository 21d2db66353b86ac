"""Packed rows say what they say alone, on every family that is let through; others are refused."""

import functools

import pytest
import torch
from engine_tools import SHAPE, collate, gemma2, llama, phi3, train, values
from test_feeding import skewed
from torch.nn import functional as F

from holdfast.config import Train
from holdfast.engine.forward import logits_at, next_labels
from holdfast.engine.packing import contamination, pack, packs, refusal
from holdfast.errors import UsageError
from holdfast.testing.models import tiny_llava

ON = Train(learning_rate=1e-3, packing="on")


def build(name, seed=0):
    import transformers as t

    torch.manual_seed(seed)
    small = {**SHAPE, "num_key_value_heads": 2}
    models = {
        "llama": llama,
        "phi3": phi3,
        "gemma2": gemma2,
        "gemma2-window": lambda: t.Gemma2ForCausalLM(
            t.Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=4)
        ),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**small)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**small, head_dim=8)),
        "mistral-window": lambda: t.MistralForCausalLM(t.MistralConfig(**small, sliding_window=5)),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        ),
        "mixtral": lambda: t.MixtralForCausalLM(
            t.MixtralConfig(**small, num_local_experts=3, num_experts_per_tok=2)
        ),
        "mamba": lambda: t.MambaForCausalLM(
            t.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
        ),
        "bloom": lambda: t.BloomForCausalLM(
            t.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
        ),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=32,
            )
        ),
    }  # fmt: skip
    return models[name]().eval()


def each_loss(model, row):
    """The losses of one example alone: an independent plain forward pass."""
    ids, labels = row["input_ids"][None], row["labels"][None]
    logits = model(input_ids=ids).logits[0, :-1]
    return F.cross_entropy(logits, labels[0, 1:], reduction="none", ignore_index=-100)


CLEAN = ["llama", "phi3", "gemma2", "gemma2-window", "qwen2", "qwen3", "mistral-window", "gpt2",
         "mixtral"]  # fmt: skip
EAGER = ("gemma2", "gemma2-window")
"""Soft caps: no other attention on a CPU."""


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CLEAN)
@torch.no_grad()
def test_losses_packed_are_losses_alone(name, attention):
    model, rows = build(name), skewed(5, most=20)
    if name not in EAGER:
        model.set_attn_implementation(attention)
    batch = collate(rows)
    labels = next_labels(batch.pop("labels"))
    union = labels != -100
    logits = logits_at(model, model, *pack(batch, union))
    losses = F.cross_entropy(logits, labels[union], reduction="none")
    alone = torch.cat([x[x != 0] for x in (each_loss(model, row) for row in rows)])
    torch.testing.assert_close(losses, alone, rtol=1e-5, atol=1e-5)
    assert refusal(model) is None
    assert contamination(model, collate(rows)) is None


@torch.no_grad()
def test_images_stay_with_their_rows():
    tiny = tiny_llava()
    ids = tiny.batch["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    ids[0, 9:] = 0
    features = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": tiny.batch["pixel_values"],
    }
    union = mask.bool()
    packed = logits_at(tiny.model, tiny.model, *pack(features, union))
    alone = [
        tiny.model(
            input_ids=ids[i : i + 1, : int(mask[i].sum())],
            pixel_values=features["pixel_values"][i : i + 1],
        ).logits[0]
        for i in range(2)
    ]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("methods", ["mlp", ["sa-proj", "lwf:positions=all_text"], "lora:rank=2"])
def test_training_packed_is_training_padded(tmp_path, methods):
    rows = skewed(16, most=30)
    settings = {"steps": 3, "batch_size": 8, "micro_batch_size": 4, "data": rows}
    padded, packed = llama(), llama()
    one, two = [], []
    train(padded, methods, tmp_path / "a", packing="off", note=one.append, **settings)
    train(packed, methods, tmp_path / "b", packing="on", note=two.append, **settings)
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], abs=1e-5)
    assert two[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], rel=1e-4)
    end = values(padded)
    for name, value in values(packed).items():
        torch.testing.assert_close(value, end[name], rtol=0, atol=5e-5, msg=name)


def test_the_model_gets_one_row_without_padding(tmp_path, monkeypatch):
    shapes = []
    model = llama()
    real = type(model).forward

    @functools.wraps(real)
    def forward(self, *args, **kwargs):
        shapes.append((kwargs["input_ids"].shape, "attention_mask" in kwargs))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", forward)
    rows = skewed(8)
    train(model, "mlp", tmp_path, data=rows, packing="on", steps=1)
    assert shapes[-1] == ((1, sum(len(r["input_ids"]) for r in rows)), False)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mamba", "carries a state from one example into the next"),
        ("bloom", "takes no position_ids"),
    ],
)
def test_families_that_would_mix_rows_are_refused(name, reason):
    with pytest.raises(UsageError, match=rf"train\.packing=on: \w+ {reason}"):
        packs(ON, build(name), skewed(4), collate)


def test_multimodal_positions_and_prefixes_are_refused():
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
    )

    with torch.device("meta"):
        qwen = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig())
        pali = PaliGemmaForConditionalGeneration(PaliGemmaConfig())
    assert "multimodal RoPE" in refusal(qwen)
    assert "both directions" in refusal(pali)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_whose_mask_is_not_block_diagonal_is_found_out(dtype):
    """OPT takes position_ids and builds its mask without them: nothing about its class says so."""
    model = build("opt").to(dtype)
    assert refusal(model) is None
    with pytest.raises(UsageError, match="lets an example of a packed row see those before it"):
        packs(ON, model, skewed(6), collate)


def test_a_model_that_loses_its_positions_is_found_out(monkeypatch):
    """Rows kept apart, but numbered through: learned positions are then the wrong ones."""
    model = build("gpt2")
    real = torch.nn.Embedding.forward

    def forward(self, ids):
        straight = torch.arange(ids.shape[-1])[None]
        return real(self, straight if self is model.transformer.wpe else ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", forward)
    assert refusal(model) is None
    with pytest.raises(UsageError, match="says something else on a packed row"):
        packs(ON, model, skewed(6), collate)


def test_auto_packs_only_where_a_kernel_skips(monkeypatch):
    model, rows = llama(), skewed(4)
    auto = Train(learning_rate=1e-3)
    assert not packs(auto, model, rows, collate)
    assert not packs(Train(learning_rate=1e-3, packing="off"), model, rows, collate)
    assert packs(ON, model, rows, collate)
    assert not model.training
    monkeypatch.setattr("holdfast.engine.packing.SKIPPING", ("sdpa",))
    assert packs(auto, model, rows, collate)
    assert not packs(auto, build("mamba"), rows, collate)
