"""Tiny models and encoded examples for the tests of this folder."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.data.batch import collate
from holdfast.ordering._registry import Work

SIZES: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


def model(kind: str) -> torch.nn.Module:
    """A random model in float64 whose norms are not at one."""
    import transformers

    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=32
        )
        made = transformers.GPT2LMHeadModel(config)
    else:
        wide = {"hidden_size": 32, "intermediate_size": 48} if kind == "wide" else {}
        config = transformers.LlamaConfig(**SIZES | wide, tie_word_embeddings=kind == "tied")
        made = transformers.LlamaForCausalLM(config)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.double().eval().requires_grad_(False)


def example(length: int, prompt: int, seed: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 30, (length,), generator=torch.Generator().manual_seed(seed))
    ids[prompt - 1] = 0  # a padding token within the text
    labels = ids.clone()
    labels[:prompt] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def examples(count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    return [example(6 + i % 3, 2 + i % 2, 100 * seed + i) for i in range(count)]


def collated(rows: list[Any]) -> dict[str, torch.Tensor]:
    return collate(rows, pad_id=0)


def work(made: torch.nn.Module, rows: list[Any], folder: Any, **more: Any) -> Work:
    return Work(made, rows, collated, folder, **more)
