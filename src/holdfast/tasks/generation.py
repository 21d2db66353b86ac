"""Ask a model by letting it write: greedy, in batches, with a key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Encoder, collate
from holdfast.data.records import Message, Part, Record
from holdfast.data.render import Refused
from holdfast.progress import Advance
from holdfast.tasks.batches import Prompts, asked, in_batches, to_model
from holdfast.tasks.decoding import (
    CannotContinue,
    Decoder,
    Ended,
    Pick,
    decode,
    likeliest,
    picking,
)
from holdfast.tasks.room import BatchSize, room_of

_MARK = "HoldfastEnd7f3"


def generate(
    model: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    max_new_tokens: int,
    batch_size: BatchSize = "auto",
    progress: Advance | None = None,
) -> list[str]:
    """The model's greedy reply to each prompt, raw text without special tokens.

    Whatever the model's own generation settings say (sampling, penalties), decoding is
    greedy; it stops at the end-of-sequence and end-of-turn tokens. Prompts are padded on the
    left, so a reply is the one that the prompt gets in a batch of its own.

    Args:
        model: a transformers causal or image-text model with ``generate``. Its training
            mode and generation settings are the same afterwards.
        processor: its processor, or its tokenizer.
        prompts: conversations up to the question.
        batch_size: prompts at a time; halves when memory runs out.

    Raises:
        DataError: a prompt cannot be encoded, or does not fit in the model's positions.
        RunError: there is no memory for a batch of one.
    """
    encoder = Encoder(processor)
    encoded = Prompts(encoder, prompts)
    encoded.check_fit(model, max_new_tokens)
    return write(
        model,
        encoder,
        encoded.__getitem__,
        encoded.lengths,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )


def write(
    model: nn.Module,
    encoder: Encoder,
    prompt: Callable[[int], Mapping[str, Tensor]],
    lengths: Sequence[int],
    *,
    max_new_tokens: int,
    until: Sequence[str] = (),
    batch_size: BatchSize = "auto",
    progress: Advance | None = None,
) -> list[str]:
    """:func:`generate` for prompts that are encoded already.

    Args:
        prompt: gives the encoded i-th prompt, without padding.
        lengths: its length in tokens, for each i.
        until: texts that end a reply; they and what follows are not part of it.
    """
    tokenizer, stops = encoder.tokenizer, stop_ids(model, encoder)

    def ended(_: int, ids: list[int]) -> bool:
        return ids[-1] in stops or bool(until and _holds(tokenizer, ids, until))

    written = write_tokens(
        model,
        prompt,
        lengths,
        max_new_tokens=max_new_tokens,
        stops=stops,
        pad=encoder.pad_id,
        ended=ended,
        also=lambda width: _until(tokenizer, width, until),
        batch_size=batch_size,
        progress=progress,
    )
    return [_text(tokenizer, ids, stops, until) for ids in written]


def write_tokens(
    model: nn.Module,
    prompt: Callable[[int], Mapping[str, Tensor]],
    lengths: Sequence[int],
    *,
    max_new_tokens: int,
    stops: set[int],
    pad: int,
    pick: Pick = likeliest,
    ended: Ended | None = None,
    also: Callable[[int], Mapping[str, Any]] = lambda width: {},
    batch_size: BatchSize = "auto",
    progress: Advance | None = None,
) -> list[list[int]]:
    """The tokens written behind each prompt, up to and with the one that ends it.

    Args:
        prompt: gives the encoded i-th prompt, without padding.
        lengths: its length in tokens, for each i.
        stops: tokens that end a reply.
        pad: the token that prompts are padded with.
        pick: chooses each next token; the rows' owners are the indices of the prompts.
        ended: whether a row is finished; by default, at one of ``stops``.
        also: further arguments of ``generate`` behind prompts of some width, for a model whose
            rows cannot be moved.
    """
    if not lengths:
        return []

    def batch(rows: list[int]) -> Mapping[str, Tensor]:
        return collate([prompt(i) for i in rows], pad_id=pad, side="left")

    def whole(rows: list[int]) -> list[list[int]]:
        inputs = to_model(batch(rows), model)
        width = inputs["input_ids"].shape[1]
        out = model.generate(  # type: ignore[operator]
            **inputs, **picking(pick, rows, width), **also(width)
        )
        written: list[list[int]] = out[:, width:].tolist()
        return written

    longest = max(lengths) + max_new_tokens
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "room": room_of(model, "write", longest),
        "progress": progress,
    }
    at_stop: Ended = ended or (lambda _, ids: ids[-1] in stops)
    with asked(model), greedy(model, max_new_tokens, stops, pad):
        try:
            decoder = Decoder(model, batch, pick)
            return decode(decoder, lengths, at_stop, max_new_tokens=max_new_tokens, **how)
        except CannotContinue:
            return in_batches([n + max_new_tokens for n in lengths], whole, **how)


def _holds(tokenizer: Any, ids: list[int], until: Sequence[str]) -> bool:
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return any(stop in text for stop in until)


def stop_ids(model: nn.Module, encoder: Encoder) -> set[int]:
    """Tokens that end a reply: the model's, the tokenizer's, and the chat template's.

    The template's is the first special token that it writes behind an assistant turn.
    """
    config = getattr(model, "generation_config", None)
    ends = (getattr(config, "eos_token_id", None), encoder.tokenizer.eos_token_id)
    return _ids(ends[0]) | _ids(ends[1]) | _turn_end(encoder)


def _turn_end(encoder: Encoder) -> set[int]:
    render, tokenizer = encoder.conversation.render, encoder.tokenizer
    if not render.has_template:
        return set()
    turns = [Message("user", (Part("text", "?"),)), Message("assistant", (Part("text", _MARK),))]
    try:
        tail = render(turns).partition(_MARK)[2]
    except Refused:
        return set()
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    special |= set(tokenizer.all_special_ids)
    special.discard(tokenizer.bos_token_id)
    found = (i for i in tokenizer.encode(tail, add_special_tokens=False) if i in special)
    return set(list(found)[:1])


def _ids(value: Any) -> set[int]:
    if value is None:
        return set()
    return {int(v) for v in value} if isinstance(value, list | tuple | set) else {int(value)}


def _text(tokenizer: Any, ids: list[int], stops: set[int], until: Sequence[str]) -> str:
    end = next((k for k, i in enumerate(ids) if i in stops), len(ids))
    text = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
    return text[: min((text.find(stop) for stop in until if stop in text), default=len(text))]


def _until(tokenizer: Any, width: int, until: Sequence[str]) -> dict[str, Any]:
    """Lets ``generate`` stop a row as soon as its text holds one of ``until``."""
    if not until:
        return {}
    from transformers import StoppingCriteriaList

    def done(ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        texts = tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
        ends = [any(stop in text for stop in until) for text in texts]
        return torch.tensor(ends, device=ids.device)

    return {"stopping_criteria": StoppingCriteriaList([done])}


@contextmanager
def greedy(model: nn.Module, max_new_tokens: int, stops: set[int], pad: int) -> Iterator[None]:
    """Plain greedy settings, in the place of the model's own, which ``generate`` would mix in."""
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=sorted(stops) or None,
        pad_token_id=pad,
    )
    holders = [m for m in model.modules() if "generation_config" in vars(m)]
    before = [m.generation_config for m in holders]
    for module in holders:
        module.generation_config = settings
    try:
        yield
    finally:
        for module, config in zip(holders, before, strict=True):
            module.generation_config = config
