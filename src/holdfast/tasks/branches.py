"""All continuations of a prompt in one row: a prefix, and branches that do not see each other.

A branch sees the prompt and itself, and its positions go on from the prompt, so its numbers are
those of a row of its own. Nothing of the prompt is computed twice and no cache is copied: of
all exact ways to score several options it needs the fewest forwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from holdfast.data import collate
from holdfast.data.aligned import SEQUENCE_KEYS
from holdfast.models.head import head_sees
from holdfast.tasks.batches import to_model

Encoded = Mapping[str, Tensor]
Ids = tuple[int, ...]

LONGEST = 4096
"""Columns above which the [T, T] mask of a row would cost more than it saves."""
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
_COARSE = 5e-2
"""Of 16-bit arithmetic."""

_trusted: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def may_branch(model: nn.Module, width: int) -> bool | None:
    """Whether rows of ``width`` columns can be read in branches; None if it has to be tried.

    Not where the attention takes no mask of its own, or has a window that a row exceeds.
    """
    config: Any = getattr(model, "config", None)
    if config is None or width > LONGEST or _trusted.get(model) is False:
        return False
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    text = config.get_text_config()
    windows = (getattr(text, n, None) for n in ("sliding_window", "attention_chunk_size"))
    if any(isinstance(w, int) and 0 < w < width for w in windows):
        return False
    return _trusted.get(model)


def settle(model: nn.Module, branched: Sequence[float], other: Sequence[float]) -> bool:
    """Trust branches on ``model`` if they gave the numbers of another way; remembered."""
    dtype = next(model.parameters()).dtype
    near = _TOLERANCE.get(dtype, _COARSE)
    close = [abs(a - b) <= near * (1 + abs(b)) for a, b in zip(branched, other, strict=True)]
    _trusted[model] = bool(close) and all(close)
    return _trusted[model]


def distrust(model: nn.Module) -> None:
    """Never try branches on ``model`` again: it cannot read them."""
    _trusted[model] = False


def width_of(prompt: Encoded, continuations: Sequence[Ids]) -> int:
    """Columns of a row: the prompt, and each continuation without its last token."""
    return len(prompt["input_ids"]) + sum(len(c) - 1 for c in continuations)


def branch_logits(
    model: nn.Module, prompts: Sequence[Encoded], continuations: Sequence[Sequence[Ids]], pad: int
) -> list[list[Tensor]]:
    """[len(c), V] logits that predict the tokens of each continuation, in float32."""
    rows = [
        _behind(prompt, [t for c in many for t in c[:-1]])
        for prompt, many in zip(prompts, continuations, strict=True)
    ]
    batch = to_model(collate(rows, pad_id=pad, side="right"), model)
    segments, positions = _layout(prompts, continuations, batch["input_ids"].shape[1])
    asked = segments > 0
    for r, prompt in enumerate(prompts):
        asked[r, len(prompt["input_ids"]) - 1] = True
    given = {
        **batch,
        "attention_mask": _mask(segments, next(model.parameters()).dtype).to(
            batch["input_ids"].device
        ),
        "position_ids": positions.to(batch["input_ids"].device),
    }
    with head_sees(model, asked.to(batch["input_ids"].device)):
        logits = model(**given, use_cache=False).logits[0].float()
    return _cut(logits, continuations)


def _cut(logits: Tensor, continuations: Sequence[Sequence[Ids]]) -> list[list[Tensor]]:
    found, at = [], 0
    for many in continuations:
        first, at = logits[at : at + 1], at + 1
        row = []
        for c in many:
            row.append(torch.cat([first, logits[at : at + len(c) - 1]]))
            at += len(c) - 1
        found.append(row)
    return found


def _layout(
    prompts: Sequence[Encoded], continuations: Sequence[Sequence[Ids]], width: int
) -> tuple[Tensor, Tensor]:
    """[B, T] segments (0 the prompt, k the k-th continuation, -1 nothing) and [B, T] positions."""
    segments = torch.full((len(prompts), width), -1)
    positions = torch.zeros((len(prompts), width), dtype=torch.long)
    for r, (prompt, many) in enumerate(zip(prompts, continuations, strict=True)):
        start = own = len(prompt["input_ids"])
        segments[r, :own], positions[r, :own] = 0, torch.arange(own)
        for k, c in enumerate(many, start=1):
            end = start + len(c) - 1
            segments[r, start:end] = k
            positions[r, start:end] = own + torch.arange(len(c) - 1)
            start = end
    return segments, positions


def _mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, T, T], 0 where the query may see the key, else the lowest number."""
    keys, queries = segments[:, None, :], segments[:, :, None]
    sees = ((keys == 0) | (keys == queries)) & torch.ones_like(keys == queries).tril()
    low = torch.finfo(dtype).min
    return torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, low)[:, None]


def _behind(encoded: Encoded, ids: Sequence[int]) -> dict[str, Tensor]:
    """The prompt with ``ids`` behind it, as text."""
    out = dict(encoded)
    more = encoded["input_ids"].new_tensor(list(ids), dtype=torch.long)
    for key in SEQUENCE_KEYS:
        if key in out:
            fill = more if key == "input_ids" else torch.full_like(more, key == "attention_mask")
            out[key] = torch.cat([out[key], fill.to(out[key].dtype)])
    return out
