"""Rows of a key-value cache: copied, dropped, put together.

All of it keeps a row's last token in the last column (left padding), and leaves the caller to
pass an attention mask [B, T] over the columns and position ids: with both, a row's numbers do
not depend on its neighbours or on the columns in front of it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from holdfast.pieces import chooser


def is_plain(cache: Any) -> bool:
    """Whether rows can be copied and moved: keys and values only, no recurrent state."""
    from transformers import cache_utils

    plain = (cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer)
    return type(cache) is cache_utils.DynamicCache and all(type(c) in plain for c in cache.layers)


def slides(cache: Any) -> bool:
    """Whether a layer keeps only a window, so that the distance between columns matters."""
    return any(layer.is_sliding for layer in cache.layers)


def fork(cache: Any, rows: Tensor) -> Any:
    """A cache with copies of ``rows``; the original stays as it is."""
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    forked.batch_select_indices(rows)
    chooser.selected(forked, rows)
    return forked


def joined(upper: Any, lower: Any) -> Any:
    """The rows of ``upper``, then those of ``lower``; the shorter is padded on the left."""
    for layer, other in zip(upper.layers, lower.layers, strict=True):
        width = max(layer.keys.shape[-2], other.keys.shape[-2])
        layer.keys = torch.cat([widened(layer.keys, width), widened(other.keys, width)])
        layer.values = torch.cat([widened(layer.values, width), widened(other.values, width)])
        if layer.is_sliding:
            layer.cumulative_length = max(layer.cumulative_length, other.cumulative_length)
    chooser.joined(upper, lower)
    return upper


def narrowed(cache: Any, width: int) -> Any:
    """The cache without the columns in front of its last ``width``, which all rows leave empty."""
    for layer in cache.layers:
        # a copy, so that the memory of what is dropped can be used again
        layer.keys = layer.keys[:, :, -width:].contiguous()
        layer.values = layer.values[:, :, -width:].contiguous()
        if layer.is_sliding:
            layer.cumulative_length = min(layer.cumulative_length, width)
    return cache


def widened(rows: Tensor, width: int) -> Tensor:
    """[..., T, D] as [..., width, D], with zeros in front."""
    return torch.nn.functional.pad(rows, (0, 0, width - rows.shape[-2], 0))
