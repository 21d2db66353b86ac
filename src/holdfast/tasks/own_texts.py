"""General samples that a model writes itself, for when its old data are gone.

A model's samples stand for what it was trained on: replaying them, or keeping its states on
them, needs no data of before. (Sun et al. 2020, LAMOL, arXiv 1909.03329, replays samples of its
own; that a chat model writes its own questions when it is given the beginning of a user's turn
was shown by Xu et al. 2024, Magpie, arXiv 2406.08464.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Encoder, collate
from holdfast.data.records import Message, Part, Record, say
from holdfast.errors import UsageError
from holdfast.tasks.batches import asked, to_model
from holdfast.tasks.generation import _text, greedy, stop_ids

PATIENCE = 16
"""So many times the samples that are wanted are drawn, if most are empty."""


def own_texts(
    model: nn.Module,
    processor: Any,
    n: int,
    *,
    prompts: Sequence[Record] = (),
    seed: int = 0,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    batch_size: int = 32,
) -> list[dict[str, Any]]:
    """``n`` samples as rows for a JSON Lines file; the same for the same arguments.

    With ``prompts`` the model answers them, in turn and again if there are fewer than ``n``.
    Without, it writes all of a sample: from the beginning-of-sequence token on, a plain text
    (``{"text": ...}``); with a chat template, a question from the beginning of a user's turn on
    and then its answer (``{"messages": [...]}``). Empty samples are drawn again.

    Args:
        model: a transformers model with ``generate``; it and the random state stay as they are.
        prompts: conversations up to a question, without images.
        seed: of all sampling.
        temperature: above 0; 1 samples the model's own distribution, nothing is cut off it.
        batch_size: samples at a time; other numbers give other samples.

    Raises:
        UsageError: a number is out of range, or the model writes nothing but empty texts.
    """
    if n < 1 or max_new_tokens < 1 or batch_size < 1 or not temperature > 0:
        raise UsageError(
            f"n={n}, max_new_tokens={max_new_tokens}, batch_size={batch_size} must be at least 1 "
            f"and temperature={temperature} above 0"
        )
    encoder = Encoder(processor)
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    rows: list[dict[str, Any]] = []
    with _seeded(seed):
        for attempt in range(PATIENCE * (n // batch_size + 2)):
            if len(rows) >= n:
                return rows[:n]
            place = attempt * batch_size
            given = [prompts[(place + k) % len(prompts)] for k in range(batch_size) if prompts]
            rows += _batch(model, encoder, given, batch_size, settings)
    if len(rows) < n:
        raise UsageError(
            f"the model wrote {len(rows)} texts of {n} and nothing but empty ones besides; "
            "one that learned answers only has no questions of its own: give it prompts."
        )
    return rows[:n]


def _batch(
    model: nn.Module,
    encoder: Encoder,
    given: Sequence[Record],
    size: int,
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    templated = encoder.conversation.render.has_template
    if not given and not templated:
        texts = _sample(model, encoder, [_begin(encoder)] * size, settings)
        return [{"text": text} for text in texts if text.strip()]
    if not given:
        asked_texts = _sample(model, encoder, [_begin(encoder)] * size, settings)
        given = [Record((say("user", t.strip()),)) for t in asked_texts if t.strip()]
    if not given:
        return []
    answers = _sample(model, encoder, [encoder.encode_prompt(r) for r in given], settings)
    return [
        {"messages": [*map(_turn, record.messages), {"role": "assistant", "content": answer}]}
        for record, answer in zip(given, answers, strict=True)
        if answer.strip()
    ]


def _turn(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.text}


def _begin(encoder: Encoder) -> dict[str, Tensor]:
    """The tokens that a text begins with: a user's turn up to its content, or BOS."""
    tokenizer = encoder.tokenizer
    if encoder.conversation.render.has_template:
        mark = "HoldfastBegin5c1"
        text = encoder.conversation.render([Message("user", (Part("text", mark),))])
        ids = tokenizer.encode(text.partition(mark)[0], add_special_tokens=False)
    else:
        first = tokenizer.bos_token_id
        ids = [tokenizer.eos_token_id if first is None else first]
    tensor = torch.tensor(ids, dtype=torch.long)
    return {"input_ids": tensor, "attention_mask": torch.ones_like(tensor)}


def _sample(
    model: nn.Module,
    encoder: Encoder,
    prompts: Sequence[Mapping[str, Tensor]],
    settings: Mapping[str, Any],
) -> list[str]:
    stops = stop_ids(model, encoder)
    with asked(model), greedy(model, settings["max_new_tokens"], stops, encoder.pad_id):
        inputs = to_model(collate(list(prompts), pad_id=encoder.pad_id, side="left"), model)
        out = model.generate(  # type: ignore[operator]
            **inputs, do_sample=True, temperature=settings["temperature"], top_k=0, top_p=1.0
        )
    written = out[:, inputs["input_ids"].shape[1] :].tolist()
    return [_text(encoder.tokenizer, ids, stops, ()) for ids in written]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    cuda = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(cuda):
        torch.manual_seed(seed)
        yield
