"""Rows that leave and join a batch write what ``generate`` writes for each prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from holdfast.tasks import decoding
from holdfast.tasks.generation import greedy, write

VOCAB, NEW = 96, 20
LENGTHS = [3, 11, 5, 24, 7, 2, 9, 16, 4, 13]
CORE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.35,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
GPT: dict[str, Any] = {
    "vocab_size": VOCAB, "initializer_range": 0.35, "tie_word_embeddings": False,
}  # fmt: skip
FEW = CORE | {"num_key_value_heads": 2, "head_dim": 8}
MIXED = ["sliding_attention", "full_attention"]
TEXT: dict[str, dict[str, Any]] = {
    "llama": FEW,
    "mistral": FEW | {"sliding_window": 8},
    "gemma2": FEW | {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": FEW | {"sliding_window": 8, "layer_types": MIXED, "query_pre_attn_scalar": 8},
    "qwen3": FEW,
    "phi3": FEW,
    "mixtral": FEW | {"num_local_experts": 2},
    "gpt2": GPT | {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": CORE,
    "opt": CORE | {"ffn_dim": 48, "init_std": 0.35, "word_embed_proj_dim": 32},
    "bloom": CORE | {"n_layer": 2, "n_head": 4},
    "falcon": CORE | {"alibi": True, "new_decoder_architecture": False},
    "mpt": GPT | {"d_model": 32, "n_heads": 4, "n_layers": 2},
}  # fmt: skip
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": CORE | {"state_size": 4},
    "lfm2": FEW | {"layer_types": ["conv", "full_attention"]},
}


class Words:
    """As much of an encoder as writing needs; a reply is its tokens' numbers."""

    pad_id = 0

    class conversation:
        class render:
            has_template = False

    class tokenizer:
        eos_token_id = 1

        @staticmethod
        def decode(ids: list[int], skip_special_tokens: bool) -> str:
            return " ".join(map(str, ids))


def text_model(name: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**settings)).float().eval()


def prompts(lengths: list[int] = LENGTHS) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, VOCAB, (n,), generator=g) for n in lengths]
    return [{"input_ids": r, "attention_mask": torch.ones_like(r)} for r in rows]


def alone(model: Any, rows: list[dict[str, torch.Tensor]], stops: set[int]) -> list[str]:
    """transformers' own, one prompt at a time."""
    replies = []
    for row in rows:
        inputs = {k: v[None] if v.dim() == 1 else v for k, v in row.items()}
        with greedy(model, NEW, stops, 0), torch.no_grad():
            ids = model.generate(**inputs)[0, len(row["input_ids"]) :].tolist()
        end = next((k for k, i in enumerate(ids) if i in stops), len(ids))
        replies.append(Words.tokenizer.decode(ids[:end], True))
    return replies


def ends(model: Any, rows: list[dict[str, torch.Tensor]]) -> set[int]:
    """End tokens at which the replies to ``rows`` stop at different places."""
    free = [[int(t) for t in reply.split()] for reply in alone(model, rows, {1})]
    new = [[k for k in range(1, len(r)) if r[k] not in r[:k]] for r in free]
    odd = list(zip(free, new, strict=True))[1::2]
    stops = {1, *(reply[at[i % len(at)]] for i, (reply, at) in enumerate(odd) if at)}
    model.generation_config = GenerationConfig(eos_token_id=sorted(stops), pad_token_id=0)
    return stops


def check(model: Any, rows: list[dict[str, torch.Tensor]], **how: Any) -> list[str]:
    stops = ends(model, rows)
    expected = alone(model, rows, stops)
    counts = {len(reply.split()) for reply in expected}
    assert len(counts) > 1, f"replies of one length test nothing: {counts}"
    lengths = [len(r["input_ids"]) for r in rows]
    got = write(model, Words(), rows.__getitem__, lengths, max_new_tokens=NEW, **how)  # type: ignore[arg-type]
    assert got == expected
    return got


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every step that was taken outside ``generate``."""
    taken: list[int] = []
    own = decoding.Decoder.step

    def counted(self: Any, rows: Any) -> None:
        taken.append(len(rows))
        own(self, rows)

    monkeypatch.setattr(decoding.Decoder, "step", counted)
    return taken


@pytest.mark.parametrize("name", TEXT)
def test_text_families(name: str, steps: list[int]) -> None:
    check(text_model(name, TEXT[name]), prompts(), batch_size=4)
    assert steps, "the rows were moved, and generate did not do it all"


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_states_are_left_to_generate(name: str, steps: list[int]) -> None:
    check(text_model(name, RECURRENT[name]), prompts([6] * 8), batch_size=4)
    assert not steps


@pytest.mark.parametrize("size", [1, 3, 10, "auto"])
def test_replies_do_not_depend_on_the_batch(size: Any, steps: list[int]) -> None:
    check(text_model("llama", FEW), prompts(), batch_size=size)
    assert max(steps) <= (10 if size == "auto" else size)


def test_no_row_is_idle(steps: list[int]) -> None:
    """Steps that rows take are the tokens that are written, less those of the prefills."""
    replies = check(text_model("llama", FEW), prompts(), batch_size=4)
    written = [min(NEW, len(r.split()) + 1) for r in replies]
    assert sum(written) - 2 * len(written) <= sum(steps) <= sum(written) - len(written)


def test_memory_that_runs_out_in_the_middle_loses_nothing() -> None:
    model = text_model("llama", FEW)
    fails = iter([False] * 6 + [True] + [False] * 4 + [True] + [False] * 1000)

    def sometimes(*_: Any) -> None:
        if next(fails):
            raise torch.OutOfMemoryError("CUDA out of memory")

    expected = alone(model, prompts(), ends(model, prompts()))
    with model.register_forward_pre_hook(sometimes):
        got = write(
            model, Words(), prompts().__getitem__, LENGTHS, max_new_tokens=NEW, batch_size=6
        )  # type: ignore[arg-type]
    assert got == expected


def test_stop_texts_end_a_row_early() -> None:
    model = text_model("llama", FEW)
    plain = check(model, prompts(), batch_size=4)
    stop = max(plain, key=len).split()[3]
    cut = write(
        model, Words(), prompts().__getitem__, LENGTHS,
        max_new_tokens=NEW, until=[stop], batch_size=4,
    )  # type: ignore[arg-type]  # fmt: skip
    assert cut == [r[: r.find(stop)] if stop in r else r for r in plain]


def qwen_vl() -> Any:
    vision = {
        "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "depth": 2,
        "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "window_size": 16,
        "fullatt_block_indexes": [1], "temporal_patch_size": 2,
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = CORE | {"num_key_value_heads": 2, "rope_parameters": rope, "rope_scaling": rope}
    config = CONFIG_MAPPING["qwen2_5_vl"](
        vision_config=vision, text_config=text, image_token_id=90, vision_start_token_id=91,
        video_token_id=92, vision_end_token_id=93,
    )  # fmt: skip
    return AutoModelForImageTextToText.from_config(config)


def llava() -> Any:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 16, "patch_size": 8, "projection_dim": 32,
        "model_type": "clip_vision_model",
    }  # fmt: skip
    config = CONFIG_MAPPING["llava"](
        vision_config=vision, text_config=FEW | {"model_type": "llama"}, image_token_id=90
    )
    return AutoModelForImageTextToText.from_config(config)


def gemma3() -> Any:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 4, "image_size": 16, "patch_size": 8,
        "model_type": "siglip_vision_model",
    }  # fmt: skip
    text = FEW | {"sliding_window": 8, "layer_types": MIXED, "model_type": "gemma3_text"}
    config = CONFIG_MAPPING["gemma3"](
        vision_config=vision, text_config=text, image_token_index=90, image_token_id=90,
        mm_tokens_per_image=4,
    )  # fmt: skip
    return AutoModelForImageTextToText.from_config(config)


def shown(row: dict[str, torch.Tensor], kind: str, seed: int) -> dict[str, torch.Tensor]:
    """The prompt with a random picture of four tokens in front."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.cat([torch.tensor([91, 90, 90, 90, 90, 93]), row["input_ids"] % 90])
    out = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "qwen_vl":
        out["pixel_values"] = torch.randn(16, 3 * 2 * 4 * 4, generator=g)
        out["image_grid_thw"] = torch.tensor([[1, 4, 4]])
        out["mm_token_type_ids"] = (ids == 90).long()
    else:
        out["pixel_values"] = torch.randn(1, 3, 16, 16, generator=g)
    if kind == "gemma3":
        out["token_type_ids"] = (ids == 90).long()
    return out


@pytest.mark.parametrize("kind", ["qwen_vl", "llava", "gemma3"])
def test_models_that_see(kind: str, steps: list[int]) -> None:
    torch.manual_seed(5)
    model = {"qwen_vl": qwen_vl, "llava": llava, "gemma3": gemma3}[kind]().float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    rows = [shown(r, kind, i) if i % 3 else r for i, r in enumerate(prompts())]
    if kind != "llava":  # processors of these give the types for text too
        key = "mm_token_type_ids" if kind == "qwen_vl" else "token_type_ids"
        rows = [{key: torch.zeros_like(r["input_ids"]), **r} for r in rows]
    check(model, rows, batch_size=4)
    assert steps
