"""How much of a batch fits: learned from what did and what did not, and remembered."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from holdfast.errors import UsageError

BatchSize = int | Literal["auto"]

AUTO_ROWS = {"cpu": 64, "cuda": 512}
"""Rows per batch for ``"auto"``, at most, by kind of device."""
AUTO_TOKENS = {"cpu": 2**14, "cuda": 2**16}
"""Padded tokens per batch for ``"auto"``, at first, by kind of device."""
BUSY = {"cpu": 2**8, "cuda": 2**14}
"""Padded tokens per batch from which a larger batch is hardly faster, by kind of device."""
_ALIKE = 0.85
"""Rows of a batch have at least this share of its longest row's tokens, if they can."""
_SPARE = 0.8
"""Share of the free memory that a batch is planned to take."""
_PATIENCE = 32
"""Batches that have to fit before a size that did not fit once is tried again."""


class Room:
    """Padded tokens that a batch may have: fewer when memory runs out, more where it is left.

    A limit in tokens lets batches grow again by themselves when the examples get shorter. On a
    GPU the first limit is what an estimate says of the free memory; after each batch, the limit
    is raised (at most doubled) to what the batch's measured peak leaves room for. Elsewhere
    the batches depend on nothing but the lengths, so that a repeated run repeats its rounding.

    Args:
        device: where the model is.
        bytes_per_token: a guess of what a padded token takes, in bytes.
    """

    def __init__(self, device: torch.device, bytes_per_token: int | None = None) -> None:
        self.device = device
        self.tokens: float = AUTO_TOKENS.get(device.type, AUTO_TOKENS["cuda"])
        self.ceiling = float("inf")
        """Tokens that are tried since a batch did not fit."""
        self._calm = self._before = 0
        if device.type == "cuda" and bytes_per_token:
            self.tokens = max(1.0, _SPARE * _free(device) / bytes_per_token)

    def rows(self, longest: int, batch_size: BatchSize) -> int:
        """Rows for a batch whose longest has so many tokens, 1 at least.

        Raises :class:`UsageError` if ``batch_size`` is neither "auto" nor a positive number.
        """
        if batch_size != "auto" and (isinstance(batch_size, bool) or not batch_size >= 1):
            raise UsageError(f"batch_size is {batch_size!r}; give a positive number or 'auto'")
        longest = max(1, longest)
        tried = int(min(self.ceiling, self.tokens) // longest)
        if batch_size == "auto":
            return max(1, min(AUTO_ROWS.get(self.device.type, AUTO_ROWS["cuda"]), tried))
        # a size that the user chose is used, until it is known not to fit
        return max(1, min(batch_size, int(min(self.ceiling, batch_size * longest) // longest)))

    def alike(self, lengths: Sequence[int]) -> int:
        """How many of these rows (the longest first) to take, so that little is padding.

        A row under ``_ALIKE`` of the longest waits for the next batch, once this one has enough
        tokens to keep the device busy.
        """
        enough = BUSY.get(self.device.type, BUSY["cuda"])
        for count, length in enumerate(lengths):
            if length < _ALIKE * lengths[0] and count * lengths[0] >= enough:
                return count
        return len(lengths)

    def begin(self) -> None:
        """A batch begins: its peak is measured from here."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)

    def fitted(self, tokens: int) -> None:
        """A batch of so many padded tokens fitted."""
        self._calm += 1
        if self._calm >= _PATIENCE:
            # what took the memory may be gone: another process, another part of this one
            self._calm, self.ceiling = 0, 2 * self.ceiling
        if self.device.type != "cuda":
            return
        taken = torch.cuda.max_memory_allocated(self.device) - self._before
        if taken > 0:
            fits = _SPARE * _free(self.device) / taken * tokens
            self.tokens = max(self.tokens, min(fits, 2 * tokens))

    def failed(self, rows: int, longest: int) -> None:
        """Memory ran out for so many rows: half of them are tried next."""
        longest = max(1, longest)
        self.ceiling = min(self.ceiling, (rows // 2) * longest)
        self._calm = 0


_ROOMS: weakref.WeakKeyDictionary[nn.Module, dict[str, Room]] = weakref.WeakKeyDictionary()


def room_of(model: nn.Module, kind: str, longest: int) -> Room:
    """The room for one kind of work with a model, with what was learned of it so far.

    Args:
        kind: of the work; each has its own needs of memory.
        longest: tokens of the longest example; tasks within a factor of 2 share what is learned.
    """
    device = next(model.parameters()).device
    rooms = _ROOMS.setdefault(model, {})
    key = f"{kind} up to {1 << max(0, longest - 1).bit_length()}"
    if key not in rooms or rooms[key].device != device:
        rooms[key] = Room(device, _bytes_per_token(model))
    return rooms[key]


def _bytes_per_token(model: nn.Module) -> int | None:
    """Keys and values of all blocks, a block's activations, and what is copied of them."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    try:
        hidden, blocks = int(text.hidden_size), int(text.num_hidden_layers)
    except (AttributeError, TypeError):
        return None
    inner = int(getattr(text, "intermediate_size", None) or 4 * hidden)
    heads = int(getattr(text, "num_attention_heads", None) or 1)
    share = int(getattr(text, "num_key_value_heads", None) or heads) / heads
    numbers = 2 * 2 * blocks * hidden * share + 8 * hidden + 4 * inner
    return int(numbers * next(model.parameters()).element_size())


def _free(device: torch.device) -> int:
    """Bytes that a batch can get: what the device has, and what torch holds without using."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + held)
