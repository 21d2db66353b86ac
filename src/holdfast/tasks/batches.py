"""Work in batches: longest first, smaller when memory is short, everything exactly once."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from holdfast.data import Encoder
from holdfast.data.records import Record
from holdfast.errors import DataError, RunError
from holdfast.progress import Advance
from holdfast.tasks.room import BatchSize, Room

R = TypeVar("R")
_KEEP_BYTES = 2**30


def in_batches(
    lengths: Sequence[int],
    work: Callable[[list[int]], Sequence[R]],
    *,
    batch_size: BatchSize = "auto",
    room: Room | None = None,
    progress: Advance | None = None,
) -> list[R]:
    """Results of ``work`` on every index of ``lengths``, in their order.

    Batches are made of neighbours in length, the longest first, so that memory runs out at
    once or never. When it does, half the batch is tried; see :class:`Room` for how it grows.

    Args:
        lengths: length of each item in tokens.
        work: takes indices, gives a result for each.
        batch_size: rows, or "auto": as many as ``room`` allows.
        room: what is known of the memory; by default nothing, on a CPU.

    Raises:
        UsageError: ``batch_size`` is neither "auto" nor a positive number.
        RunError: there is not even memory for a batch of one.
    """
    room = room or Room(torch.device("cpu"))
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    room.rows(1, batch_size)
    results: dict[int, R] = {}
    while len(results) < len(order):
        longest = lengths[order[len(results)]]
        rows = order[len(results) :][: room.rows(longest, batch_size)]
        if batch_size == "auto":
            rows = rows[: room.alike([lengths[i] for i in rows])]
        room.begin()
        done = attempt(lambda rows=rows: work(rows), len(rows))  # type: ignore[misc]
        if done is None:
            room.failed(len(rows), longest)
            continue
        room.fitted(len(rows) * longest)
        assert len(done) == len(rows), "a batch must give one result for each of its rows"
        results.update(zip(rows, done, strict=True))
        if progress is not None:
            progress(len(results), len(order))
    assert results.keys() == set(range(len(lengths))), "every item must be worked on once"
    return [results[i] for i in range(len(lengths))]


def attempt(work: Callable[[], R], rows: int) -> R | None:
    """The result, or None if memory ran out and fewer than ``rows`` can be tried.

    Raises :class:`RunError` if it ran out for one row.
    """
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if rows == 1:
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
    return set(inspect.signature(unwrapped(model).forward).parameters)


def unwrapped(model: nn.Module) -> Any:
    """The model itself, without a PEFT wrapper around it."""
    inner: Any = model
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


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
