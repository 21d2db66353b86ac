"""Encoded records as one padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from holdfast.data.aligned import IGNORED, SEQUENCE_KEYS
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def collate(
    encoded: Sequence[Mapping[str, Tensor]],
    *,
    pad_id: int,
    side: Literal["right", "left"] = "right",
    pad_to_multiple_of: int | None = None,
) -> dict[str, Tensor]:
    """Pad B encoded records to one batch.

    Args:
        encoded: what :class:`holdfast.data.Encoder` returned for each record.
        pad_id: the token to pad ``input_ids`` with.
        side: ``"right"`` for training, ``"left"`` for generation.
        pad_to_multiple_of: round the length up, for kernels that like it.

    Returns:
        Per-token features as [B, T]: ``input_ids``, ``attention_mask`` (0 on padding),
        ``labels`` (-100 on padding), token types (0 on padding). Image features are put
        together along dimension 0 in the order of the records; where their other dimensions
        differ (the number of patches of an image in LLaVA-NeXT, of tiles in Idefics 3, height
        and width in Pixtral) they are padded with zeros behind, as the processors do.

    Raises:
        UsageError: an empty batch, an unknown side, or records with different features.
    """
    if not encoded:
        raise UsageError("a batch of no records cannot be collated")
    if side not in ("right", "left"):
        raise UsageError(f"side={side!r} is not known; there is: right, left")
    length = max(len(e["input_ids"]) for e in encoded)
    if pad_to_multiple_of:
        length += -length % pad_to_multiple_of
    fill = {"input_ids": pad_id, "labels": IGNORED}
    batch: dict[str, Tensor] = {}
    for key in dict.fromkeys(key for e in encoded for key in e):
        values = [e[key] for e in encoded if key in e]
        if key not in SEQUENCE_KEYS:
            batch[key] = _concatenate(values)
        elif len(values) == len(encoded):
            batch[key] = _stack(values, length, fill.get(key, 0), side)
        elif key == "labels":
            raise UsageError("some records of the batch have labels and some have none")
        else:
            rows = [e.get(key, e["input_ids"].new_zeros(len(e["input_ids"]))) for e in encoded]
            batch[key] = _stack(rows, length, 0, side)
    return batch


def _stack(rows: Sequence[Tensor], length: int, fill: int, side: str) -> Tensor:
    out = rows[0].new_full((len(rows), length), fill)
    for i, row in enumerate(rows):
        if side == "right":
            out[i, : len(row)] = row
        else:
            out[i, length - len(row) :] = row
    return out


def _concatenate(values: Sequence[Tensor]) -> Tensor:
    """Put [n_i, ...] tensors together along dimension 0, padding the others with zeros."""
    import torch

    shapes = {tuple(v.shape[1:]) for v in values}
    if len({len(shape) for shape in shapes}) != 1:
        raise UsageError(f"image features of one batch differ in rank: {sorted(map(str, shapes))}")
    if len(shapes) == 1:
        return torch.cat(list(values))
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    padded = []
    for value in values:
        out = value.new_zeros((len(value), *largest))
        out[tuple(slice(n) for n in value.shape)] = value
        padded.append(out)
    return torch.cat(padded)
