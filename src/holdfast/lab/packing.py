"""Many questions about one picture in one row.

A row is a prefix (the picture) and branches (a question and its answer each). A branch sees
the prefix and itself, and its positions go on from the prefix, so the loss of a branch is
what it would be in a row of its own, for a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.lab.tokenizer import Codec

Branch = tuple[list[int], int]
"""Token ids of a question and its answer, and how many of them belong to the question."""


@dataclass(frozen=True)
class Row:
    """A picture ([48, 48, 3] bytes, or None) and encoded questions about it."""

    pixels: Any
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Packed:
    """Rows as tensors; B rows, T tokens, A supervised tokens."""

    input_ids: Tensor
    """[B, T]."""
    position_ids: Tensor
    """[B, T]."""
    visible: Tensor
    """[B, 1, T, T] bool: query sees key."""
    places: Tensor
    """[A], flat positions (row * T + column) that predict a supervised token."""
    targets: Tensor
    """[A], the tokens to predict there."""
    answer: Tensor
    """[A], which answer of the batch each belongs to, counted from 0."""
    pixel_values: Tensor | None
    """[B, 3, 48, 48], as the model's image processor scales them."""


def pack(rows: Sequence[Row], codec: Codec) -> Packed:
    """Rows of either kind, all with a picture or all without."""
    import torch

    pictured = rows[0].pixels is not None
    prefix = codec.prefix(pictured)
    width = max(len(prefix) + sum(len(ids) for ids, _ in row.branches) for row in rows)
    ids = np.full((len(rows), width), codec.pad)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    segment = np.full((len(rows), width), -1)
    places: list[int] = []
    targets: list[int] = []
    answer: list[int] = []
    answers = 0
    for r, row in enumerate(rows):
        start = len(prefix)
        ids[r, :start], positions[r, :start], segment[r, :start] = prefix, np.arange(start), 0
        for b, (tokens, asked) in enumerate(row.branches):
            end = start + len(tokens)
            ids[r, start:end], segment[r, start:end] = tokens, b + 1
            positions[r, start:end] = len(prefix) + np.arange(len(tokens))
            places += range(r * width + start + asked - 1, r * width + end - 1)
            targets += tokens[asked:]
            answer += [answers] * (len(tokens) - asked)
            answers, start = answers + 1, end
    keys, queries = segment[:, None, :], segment[:, :, None]
    visible = ((keys == 0) | (keys == queries)) & np.tri(width, dtype=bool)
    pixels = np.stack([row.pixels for row in rows]) if pictured else None
    return Packed(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(visible[:, None]),
        torch.tensor(places),
        torch.tensor(targets),
        torch.tensor(answer),
        None if pixels is None else to_pixel_values(pixels),
    )


def to_pixel_values(pixels: Any) -> Tensor:
    """[B, 48, 48, 3] bytes to [B, 3, 48, 48], as the model's image processor scales them."""
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def token_losses(model: Any, packed: Packed) -> tuple[Tensor, Tensor]:
    """[A] cross-entropy and [A] bool, whether the most likely token is the right one."""
    import torch.nn.functional as F

    images = {} if packed.pixel_values is None else {"pixel_values": packed.pixel_values}
    hidden = model.model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=packed.visible,
        use_cache=False,
        **images,
    ).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[packed.places]).float()
    losses = F.cross_entropy(logits, packed.targets, reduction="none")
    return losses, logits.argmax(-1) == packed.targets
