"""Work in batches: longest first, smaller when memory is short, everything exactly once."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from holdfast.data import Encoder
from holdfast.data.records import Record
from holdfast.errors import DataError, RunError, UsageError
from holdfast.progress import Advance

R = TypeVar("R")
BatchSize = int | Literal["auto"]

AUTO_ROWS = 64
"""Rows per batch for ``"auto"``, at most; see :func:`in_batches` for what else limits them."""
AUTO_TOKENS = {"cpu": 2**14, "cuda": 2**16}
"""Padded prompt tokens per batch for ``"auto"``, at most, by kind of device."""
_KEEP_BYTES = 2**30


def in_batches(
    lengths: Sequence[int],
    work: Callable[[list[int]], Sequence[R]],
    *,
    batch_size: BatchSize = "auto",
    device: str = "cpu",
    progress: Advance | None = None,
) -> list[R]:
    """Results of ``work`` on every index of ``lengths``, in their order.

    Batches are made of neighbours in length, the longest first, so that memory runs out at
    once or never. When it does, the batch is halved, and stays halved.

    Args:
        lengths: length of each item in tokens.
        work: takes indices, gives a result for each.
        batch_size: rows, or "auto": as many as :data:`AUTO_ROWS` and :data:`AUTO_TOKENS` allow.

    Raises:
        UsageError: ``batch_size`` is neither "auto" nor a positive number.
        RunError: there is not even memory for a batch of one.
    """
    if batch_size != "auto" and (isinstance(batch_size, bool) or not batch_size >= 1):
        raise UsageError(f"batch_size is {batch_size!r}; give a positive number or 'auto'")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    limit = AUTO_ROWS if batch_size == "auto" else batch_size
    results: dict[int, R] = {}
    while len(results) < len(order):
        longest = max(1, lengths[order[len(results)]])
        room = AUTO_TOKENS.get(device, AUTO_TOKENS["cuda"]) // longest
        size = max(1, min(limit, room)) if batch_size == "auto" else limit
        rows = order[len(results) : len(results) + size]
        done = _attempt(work, rows)
        if done is None:
            limit = len(rows) // 2
            continue
        assert len(done) == len(rows), "a batch must give one result for each of its rows"
        results.update(zip(rows, done, strict=True))
        if progress is not None:
            progress(len(results), len(order))
    assert results.keys() == set(range(len(lengths))), "every item must be worked on once"
    return [results[i] for i in range(len(lengths))]


def _attempt(work: Callable[[list[int]], Sequence[R]], rows: list[int]) -> Sequence[R] | None:
    """The batch's results, or None if memory ran out and a smaller batch can be tried."""
    try:
        return work(rows)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(rows) == 1:
            raise RunError(
                "there is not enough memory to ask the model one question at a time; "
                "use a smaller model or dtype, or shorter prompts"
            ) from error
    # Outside the except block, where the traceback no longer holds on to the batch's tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    signs = ("out of memory", "defaultcpuallocator", "not enough memory")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


class Prompts:
    """Encoded prompts, made when asked for; kept while they take less than a gigabyte.

    Args:
        encoder: of the model that will be asked.
        records: conversations up to the question.
    """

    def __init__(self, encoder: Encoder, records: Sequence[Record]) -> None:
        self._encoder, self._records = encoder, records
        self._kept: dict[int, Mapping[str, Tensor]] = {}
        self._bytes = 0
        self.lengths = [len(self[i]["input_ids"]) for i in range(len(records))]

    def __getitem__(self, i: int) -> Mapping[str, Tensor]:
        if i in self._kept:
            return self._kept[i]
        encoded: Mapping[str, Tensor] = self._encoder.encode_prompt(self._records[i])
        size = sum(v.nbytes for v in encoded.values() if isinstance(v, Tensor))
        if self._bytes + size <= _KEEP_BYTES:
            self._kept[i] = encoded
            self._bytes += size
        return encoded

    def check_fit(self, model: nn.Module, answer: int) -> None:
        """Raises :class:`DataError` if a prompt and ``answer`` more tokens do not fit."""
        room = context_length(model)
        for record, length in zip(self._records, self.lengths, strict=True):
            if room is not None and length + answer > room:
                raise DataError(
                    f"example '{record.id}' has {length} tokens; with an answer of up to {answer} "
                    f"it does not fit in the {room} positions of the model. Shorten the prompt, "
                    "lower max_new_tokens, or leave the example out."
                )


def context_length(model: nn.Module) -> int | None:
    """Positions that the language model was made for, or None if its configuration has none."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    room = getattr(text, "max_position_embeddings", None)
    return room if isinstance(room, int) and room > 0 else None


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first weight lies; inputs go there."""
    return next(model.parameters()).device


def to_model(batch: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The batch on the model's device, images in the model's dtype.

    Token types are left out for a model that has none, though its tokenizer gives them.
    """
    weight = next(model.parameters())
    dtype = getattr(model, "dtype", weight.dtype)
    unread = {"token_type_ids"} - forward_names(model)
    return {
        k: v.to(weight.device, dtype) if v.is_floating_point() else v.to(weight.device)
        for k, v in batch.items()
        if k not in unread
    }


def forward_names(model: nn.Module) -> set[str]:
    """Names of the arguments that the model's forward takes; looks through a PEFT wrapper."""
    inner: Any = model
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    return set(inspect.signature(inner.forward).parameters)


@contextmanager
def asked(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module's own mode is restored afterwards."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        # no_grad and not inference_mode: buffers that a forward makes (rotary tables) would
        # be inference tensors, which later training cannot use.
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
