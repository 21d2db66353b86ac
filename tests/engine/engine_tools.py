"""Tiny models and batches for the engine's tests."""

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from holdfast.config import Train
from holdfast.engine.stage import train_stage
from holdfast.methods import plan

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def llama(seed=0, **changes):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})).eval()


def phi3(seed=0):
    torch.manual_seed(seed)
    return Phi3ForCausalLM(Phi3Config(**SHAPE)).eval()


def gemma2(seed=0):
    torch.manual_seed(seed)
    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8)).eval()


def examples(n=32, seed=0):
    """Uneven lengths, uneven numbers of supervised tokens."""
    g = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(n):
        length = 6 + i % 5
        ids = torch.randint(1, 64, (length,), generator=g)
        labels = ids.clone()
        labels[: 2 + i % 3] = -100
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return rows


def collate(rows):
    def pad(key, value):
        return torch.nn.utils.rnn.pad_sequence(
            [r[key] for r in rows], batch_first=True, padding_value=value
        )

    return {
        "input_ids": pad("input_ids", 0),
        "labels": pad("labels", -100),
        "attention_mask": pad("attention_mask", 0),
    }


def train(
    model, methods, folder, *, data=None, base=None, seed=1, note=None, watchers=(), **settings
):
    settings = {"learning_rate": 1e-2, "steps": 6, "batch_size": 8, **settings}
    return train_stage(
        plan([methods] if isinstance(methods, str) else methods),
        model,
        data or examples(),
        collate,
        Train(**settings),
        folder=folder / "checkpoints",
        seed=seed,
        base_weights=base or {},
        advance=lambda done, total: None,
        note=note or (lambda row: None),
        adapter_folder=folder / "adapter",
        watchers=watchers,
    )


def values(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}
