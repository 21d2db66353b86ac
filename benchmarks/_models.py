"""The model and the data that stand still while everything else is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """A Llama with random weights and batches of equally long sequences."""

    width: int = 384
    inner: int = 1024
    blocks: int = 8
    heads: int = 6
    vocabulary: int = 8192
    rows: int = 8
    length: int = 128

    @property
    def tokens(self) -> int:
        """Tokens of an optimizer step."""
        return self.rows * self.length

    def __str__(self) -> str:
        return (
            f"Llama, width {self.width}, MLP {self.inner}, {self.blocks} blocks, vocabulary "
            f"{self.vocabulary}, {self.rows} x {self.length} = {self.tokens} tokens a step"
        )


REFERENCE = Shape()
"""The CPU reference: 20 million weights, 1024 tokens."""
TINY = Shape(width=32, inner=48, blocks=8, heads=4, vocabulary=64, rows=4, length=16)
"""For tests: the same path in milliseconds."""


def reference_model(shape: Shape = REFERENCE, seed: int = 0, **changes: Any) -> Any:
    """``LlamaForCausalLM`` in float32 with untied embeddings; the same weights for a seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))


def token_rows(
    count: int, shape: Shape = REFERENCE, *, lengths: list[int] | None = None,
    supervised: float = 1.0, seed: int = 0,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """Encoded records of random tokens.

    Args:
        lengths: of each row; all ``shape.length`` unless given.
        supervised: share of each row, at its end, that has labels.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths or [shape.length] * count:
        ids = torch.randint(3, shape.vocabulary, (length,), generator=generator)
        labels = ids.clone()
        labels[: round((1 - supervised) * length)] = -100
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return rows


def prefix_flops(shape: Shape, blocks: int) -> float:
    """FLOPs of one row's forward pass through so many blocks."""
    block = 4 * shape.width**2 + 3 * shape.width * shape.inner
    scores = 2 * shape.length * shape.width
    return 2.0 * blocks * shape.length * (block + scores)
