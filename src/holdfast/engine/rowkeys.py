"""Which row of a batch is which: a key for everything that each row's hidden states depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.cache.keys import digest, tensors

LABELS = ("labels", "num_items_in_batch")
_PER_TOKEN = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "token_type_ids",
    "mm_token_type_ids",
)
IMAGES: tuple[str, ...] = ("pixel_values", "image_sizes", "image_grid_thw", "pixel_attention_mask")
_IGNORED = ("use_cache", "return_dict", "logits_to_keep", *LABELS)


def unreadable(batch: Mapping[str, Any]) -> str | None:
    """Why the rows of ``batch`` cannot be told apart, or None."""
    odd = [k for k in batch if k not in (*_PER_TOKEN, *IMAGES, *_IGNORED)]
    if odd:
        return f"the batch has {odd[0]}, of which it is not known what belongs to which row"
    ids = batch.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        return "the batch has no input_ids [B, T]"
    for name in _PER_TOKEN:
        value = batch.get(name)
        if value is not None and tuple(value.shape) != tuple(ids.shape):
            return f"{name} has shape {list(value.shape)} and not one value per token"
    return None


def spans(batch: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Start and stop of each row's text between its padding."""
    mask = batch.get("attention_mask")
    ids = batch["input_ids"]
    if mask is None:
        return [(0, ids.shape[1])] * len(ids)
    found = []
    for row in mask.cpu().bool():
        places = row.nonzero().squeeze(1)
        found.append((int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0))
    return found


def row_keys(batch: Mapping[str, Any], config: Any) -> list[str] | str:
    """A key for each row of a collated batch, the same whatever else is in the batch.

    A row is its tokens, their masks, kinds and positions before its padding, and the images that
    stand in it. Padding in front would move absolute positions, and predicts the first token.

    Returns:
        B keys, or a sentence that says why there are none.
    """
    reason = unreadable(batch)
    if reason is not None:
        return reason
    images = _images(batch, config)
    if isinstance(images, str):
        return images
    places = spans(batch)
    if any(start for start, _ in places):
        return "a row begins with padding"
    values = {k: batch[k].cpu() for k in _PER_TOKEN if batch.get(k) is not None}
    keys = []
    for i, (start, stop) in enumerate(places):
        text = tensors((k, v[i, start:stop]) for k, v in sorted(values.items()))
        keys.append(digest(text, *images[i]))
    return keys


def _images(batch: Mapping[str, Any], config: Any) -> list[list[str]] | str:
    """For each row the keys of its images."""
    ids = batch["input_ids"]
    pixels = batch.get("pixel_values")
    if pixels is None:
        return [[] for _ in ids]
    each = _each_image(batch)
    if isinstance(each, str):
        return each
    owners = image_owners(batch, config)
    if owners is None:
        return "it cannot be told which image belongs to which row"
    rows: list[list[str]] = [[] for _ in ids]
    for owner, key in zip(owners, each, strict=True):
        rows[owner].append(key)
    return rows


def _each_image(batch: Mapping[str, Any]) -> list[str] | str:
    """A key for each image, without the padding that its batch gave it."""
    pixels = batch["pixel_values"]
    grid, sizes = batch.get("image_grid_thw"), batch.get("image_sizes")
    if grid is not None:
        counts = grid.prod(-1).tolist()
        if sum(counts) != len(pixels):
            return "pixel_values and image_grid_thw do not fit together"
        pieces = torch.split(pixels.cpu(), counts)
        shapes = grid.cpu()
        return [tensors((("p", p), ("g", g))) for p, g in zip(pieces, shapes, strict=True)]
    if batch.get("pixel_attention_mask") is not None:
        return "images come padded by tiles of their row"
    if sizes is None:
        return [tensors([("p", p)]) for p in pixels.cpu()]
    if len(sizes) != len(pixels):
        return "pixel_values and image_sizes do not fit together"
    trimmed = (_trimmed(p) for p in pixels.cpu())
    return [tensors((("p", p), ("s", s))) for p, s in zip(trimmed, sizes.cpu(), strict=True)]


def _trimmed(image: Tensor) -> Tensor:
    """Without the zeros behind in any dimension; with the image's size this loses nothing."""
    for dim in range(image.dim()):
        others = tuple(d for d in range(image.dim()) if d != dim)
        used = (image != 0).any(dim=others) if others else image != 0
        last = int(used.nonzero()[-1]) + 1 if bool(used.any()) else 0
        image = image.narrow(dim, 0, last)
    return image


def image_owners(batch: Mapping[str, Any], config: Any) -> Sequence[int] | None:
    """The row of each image in order, or None where it cannot be told for certain."""
    grid = batch.get("image_grid_thw")
    count = len(batch["pixel_values"] if grid is None else grid)
    ids = batch["input_ids"].cpu()
    marks = [getattr(config, n, None) for n in ("image_token_id", "image_token_index")]
    mark = next((m for m in marks if m is not None), None)
    if mark is None:
        return [0] * count if len(ids) == 1 else None
    there = ids == mark
    tokens = there.sum(1).tolist()
    if count == len(ids) and all(tokens):
        return range(count)
    starts = there & ~torch.nn.functional.pad(there, (1, 0))[:, :-1]
    runs = starts.sum(1).tolist()
    if sum(runs) == count:
        return [row for row, n in enumerate(runs) for _ in range(n)]
    whole, rest = divmod(sum(tokens), count) if count else (0, 1)
    if batch["pixel_values"].dim() == 4 and not rest and all(n % whole == 0 for n in tokens):
        return [row for row, n in enumerate(tokens) for _ in range(n // whole)]
    return None
