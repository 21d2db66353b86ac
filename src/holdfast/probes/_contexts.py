"""The token sequences that both models read, and the positions at which they are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Encoder, collate
from holdfast.data.aligned import IGNORED, SEQUENCE_KEYS
from holdfast.data.records import Record
from holdfast.errors import UsageError
from holdfast.tasks.batches import Prompts, asked, in_batches, to_model
from holdfast.tasks.generation import greedy, stop_ids
from holdfast.tasks.room import BatchSize

Encoded = Mapping[str, Tensor]


@dataclass(frozen=True)
class Contexts:
    """Encoded sequences of n examples.

    The token that position t predicts is ``labels[t + 1]``; a position counts if that label is
    not -100. So the first position of an answer is the last token of its prompt.
    """

    encoded: tuple[Encoded, ...]
    """Each with ``labels`` [T]."""
    clusters: tuple[str, ...]
    """[n]; examples about the same image share one."""
    pad_id: int
    stops: frozenset[int]
    """Tokens that end a reply."""
    source: str
    """Where the answers come from, in words."""
    replies: bool = False
    """Whether they are greedy replies of a model's."""

    def __len__(self) -> int:
        return len(self.encoded)

    def positions(self, i: int) -> Tensor:
        """[T] bool: the positions of example i that predict a token of its answer."""
        return predicting(self.encoded[i]["labels"])

    @property
    def counts(self) -> list[int]:
        """[n]: positions of each example."""
        return [int(self.positions(i).sum()) for i in range(len(self))]

    def without_end(self) -> Contexts:
        """The same, with the tokens that end a reply no longer counted."""
        stops = torch.tensor(sorted(self.stops), dtype=torch.long)
        encoded = []
        for one in self.encoded:
            labels = one["labels"].clone()
            labels[torch.isin(labels, stops)] = IGNORED
            encoded.append({**one, "labels": labels})
        return replace(self, encoded=tuple(encoded))


def predicting(labels: Tensor) -> Tensor:
    """[T] bool: where the next token is labelled."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    found[:-1] = labels[1:] != IGNORED
    return found


def contexts(
    base: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    max_new_tokens: int = 32,
    batch_size: BatchSize = "auto",
) -> Contexts:
    """Fixed contexts: the prompts' own answers, or what ``base`` replies where they have none.

    Raises:
        UsageError: there are no prompts, or some have an answer and some have none.
        DataError: a record cannot be encoded.
    """
    have = {bool(r.raw or r.answer()) for r in prompts}
    if len(have) != 1:
        raise UsageError(
            "no prompts were given; name at least one."
            if not have
            else "some prompts end with an answer and some do not, so the models would be "
            "compared on two kinds of text; use record.prompt() to leave all answers out."
        )
    if have == {True}:
        return answered(base, processor, prompts)
    return replied(base, processor, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)


def answered(model: nn.Module, processor: Any, records: Sequence[Record]) -> Contexts:
    """Each record with its own answer; the answer's tokens and its end are predicted.

    Raises :class:`holdfast.errors.DataError` for a record without an answer.
    """
    encoder = Encoder(processor)
    return Contexts(
        tuple(encoder(r) for r in records),
        tuple(cluster_of(r) for r in records),
        encoder.pad_id,
        frozenset(stop_ids(model, encoder)),
        "the prompts' own answers",
    )


def replied(
    model: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    max_new_tokens: int,
    batch_size: BatchSize = "auto",
    who: str = "the base model's greedy replies",
) -> Contexts:
    """Each prompt with the model's own greedy reply behind it, token by token.

    The token that ends the reply is predicted too, where the model wrote one.

    Raises :class:`holdfast.errors.DataError` for a prompt that does not fit.
    """
    encoder = Encoder(processor)
    asking = [r.prompt() for r in prompts]
    encoded = Prompts(encoder, asking)
    encoded.check_fit(model, max_new_tokens)
    stops = stop_ids(model, encoder)

    def reply(rows: list[int]) -> list[list[int]]:
        batch = to_model(
            collate([encoded[i] for i in rows], pad_id=encoder.pad_id, side="left"), model
        )
        width = batch["input_ids"].shape[1]
        out: Tensor = model.generate(**batch)  # type: ignore[operator]
        return [_until_stop(row[width:].tolist(), stops) for row in out]

    with asked(model), greedy(model, max_new_tokens, stops, encoder.pad_id):
        replies = in_batches(encoded.lengths, reply, batch_size=batch_size)
    return Contexts(
        tuple(_behind(encoded[i], ids) for i, ids in enumerate(replies)),
        tuple(cluster_of(r) for r in prompts),
        encoder.pad_id,
        frozenset(stops),
        who,
        replies=True,
    )


def cluster_of(record: Record) -> str:
    """The record's own cluster, else a name of its images; '' for one on its own."""
    own = record.meta.get("cluster")
    return str(own) if own is not None else images_key(record)


def images_key(record: Record) -> str:
    """The same for records about the same images, '' for one without."""
    images = [i.data or (i.path or "").encode() for i in record.images]
    return "|".join(hashlib.sha256(image).hexdigest()[:16] for image in images)


def _until_stop(ids: list[int], stops: set[int]) -> list[int]:
    end = next((k for k, i in enumerate(ids) if i in stops), len(ids))
    return ids[: end + 1]


def _behind(prompt: Encoded, ids: Sequence[int]) -> dict[str, Tensor]:
    """The prompt with ``ids`` behind it as text, and labels for those."""
    more = prompt["input_ids"].new_tensor(list(ids))
    out = dict(prompt)
    for key in SEQUENCE_KEYS:
        if key in out:
            fill = more if key == "input_ids" else torch.full_like(more, key == "attention_mask")
            out[key] = torch.cat([out[key], fill.to(out[key].dtype)])
    labels = torch.full_like(out["input_ids"], IGNORED)
    labels[len(labels) - len(ids) :] = more
    out["labels"] = labels
    return out
