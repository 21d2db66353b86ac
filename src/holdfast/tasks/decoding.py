"""Decoding without idle rows: who has finished leaves the batch, who waits moves in.

``generate`` of transformers runs a batch until its slowest row has finished. Here a row leaves
as soon as it has, and once half of the rows are gone, the next prompts are read and join the
others. The tokens are the same: each row is told its own positions and sees its own columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.progress import Advance
from holdfast.tasks.batches import attempt, forward_names, to_model, unwrapped
from holdfast.tasks.caches import fork, is_plain, joined, narrowed
from holdfast.tasks.room import BatchSize, Room

Batch = Callable[[list[int]], Mapping[str, Tensor]]
Ended = Callable[[int, list[int]], bool]
Pick = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]
"""Logits [B, V] in float32, the rows' owners and how much each has written -> [B] next tokens."""


def likeliest(logits: Tensor, owners: Sequence[int], written: Sequence[int]) -> Tensor:
    """Greedy decoding."""
    return logits.argmax(-1)


class Sampled:
    """Draws each next token from softmax(logits / temperature), nothing cut off.

    Each row has random numbers of its own, one for each token that it may write, so that what
    is drawn does not depend on the rows beside it (but for the rounding of their logits).

    Args:
        rows: how many there are.
        most: tokens that each may write.
        temperature: above 0.
        seed: the same numbers for the same seed.
    """

    def __init__(self, rows: int, most: int, temperature: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.numbers = torch.rand(rows, most, generator=generator, dtype=torch.float64)
        self.temperature = temperature

    def __call__(self, logits: Tensor, owners: Sequence[int], written: Sequence[int]) -> Tensor:
        sums = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        drawn = self.numbers[list(owners), list(written)].to(logits.device)[:, None]
        found = torch.searchsorted(sums, drawn * sums[:, -1:], right=True)
        return found[:, 0].clamp(max=logits.shape[-1] - 1)


class CannotContinue(Exception):
    """The model's cache or inputs are not ones that rows can be moved between."""


@dataclass
class Rows:
    """Rows that are being written. T columns, of which the last token's is not yet there."""

    owners: list[int]
    written: list[list[int]]
    last: Tensor
    """[B]: each row's last token."""
    cache: Any
    mask: Tensor
    """[B, T], 0 on padding."""
    positions: Tensor | None
    """[..., B, 1] of column T, for a model that is told positions."""

    def __len__(self) -> int:
        return len(self.owners)

    def kept(self, rows: list[int]) -> Rows:
        """Only ``rows``, without the columns that none of them uses."""
        chosen = torch.tensor(rows, device=self.mask.device)
        mask = self.mask[chosen]
        width = int(mask.sum(-1).max())
        cache = fork(self.cache, chosen)
        return Rows(
            [self.owners[r] for r in rows],
            [self.written[r] for r in rows],
            self.last[chosen],
            narrowed(cache, width) if width < mask.shape[1] else cache,
            mask[:, -width:],
            None if self.positions is None else self.positions[..., chosen, :],
        )

    def joined(self, other: Rows) -> Rows:
        """These rows, then the other's."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        masks = [nn.functional.pad(m, (width - m.shape[1], 0)) for m in (self.mask, other.mask)]
        positions = None
        if self.positions is not None and other.positions is not None:
            positions = torch.cat([self.positions, other.positions], dim=-2)
        return Rows(
            self.owners + other.owners,
            self.written + other.written,
            torch.cat([self.last, other.last]),
            joined(self.cache, other.cache),
            torch.cat(masks),
            positions,
        )


class Decoder:
    """One model's prefill and step, as its own ``generate`` does them.

    The first batch is written two steps far by ``generate``, which is watched: what it hands
    the model at the second step is what every later step gets.

    Args:
        model: with greedy generation settings in force.
        batch: gives the collated, left-padded prompts of some indices.
        pick: chooses each next token.
    """

    _OWN = frozenset({"input_ids", "attention_mask", "position_ids", "past_key_values"})
    _TYPES = frozenset({"token_type_ids", "mm_token_type_ids"})

    def __init__(self, model: nn.Module, batch: Batch, pick: Pick = likeliest) -> None:
        self.model, self.batch, self.pick = model, batch, pick
        self.inner = unwrapped(model)
        self.told = "position_ids" in forward_names(model)
        self.constants: dict[str, Any] | None = None
        self.types: dict[str, Tensor] = {}
        if "attention_mask" not in forward_names(model):
            raise CannotContinue("the model is not told which columns are padding")
        if "chunked_attention" in (getattr(_text(self.inner), "layer_types", None) or ()):
            raise CannotContinue("chunks of attention depend on the columns in front")

    def read(self, rows: list[int], most: int) -> Rows:
        """Read prompts and write the first one or two tokens behind each, ``most`` at most.

        Raises:
            CannotContinue: what ``generate`` hands the model, or the cache that it keeps, is
                not of a kind whose rows can be moved.
        """
        inputs = to_model(self.batch(rows), self.model)
        width = inputs["input_ids"].shape[1]
        tokens = 1 if self.constants is not None else min(2, most)
        out, calls = self._generate(inputs, tokens, rows)
        written = out.sequences[:, width:]
        count = written.shape[1]
        if len(calls) < count:
            raise CannotContinue("generate does not call the model once per token")
        if count == 2:
            self._learn(calls[0], calls[1])
        call = calls[count - 1]
        cache: Any = getattr(out, "past_key_values", None)
        mask, shape = call.get("attention_mask"), (len(rows), width + count - 1)
        if mask is None and bool(inputs["attention_mask"].all()):
            mask = inputs["attention_mask"].new_ones(shape)
        if not is_plain(cache) or cache.get_seq_length() != width + count - 1:
            raise CannotContinue("the cache holds more than the prompts' keys and values")
        if not isinstance(mask, Tensor) or mask.shape != shape:
            raise CannotContinue("the mask has another shape than the prompts")
        positions = self._next_positions(call, len(rows))
        return Rows(list(rows), written.tolist(), written[:, -1], cache, mask, positions)

    def _generate(
        self, inputs: Mapping[str, Tensor], tokens: int, rows: list[int]
    ) -> tuple[Any, list[dict[str, Any]]]:
        """``generate``'s output, and what it gave the model at each call."""
        calls: list[dict[str, Any]] = []

        def seen(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            calls.append(dict(kwargs))

        with self.inner.register_forward_pre_hook(seen, with_kwargs=True):
            out = self.model.generate(  # type: ignore[operator]
                **inputs,
                **picking(self.pick, rows, inputs["input_ids"].shape[1]),
                max_new_tokens=tokens,
                return_dict_in_generate=True,
            )
        return out, calls

    def _learn(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
        tensors = {k: v for k, v in second.items() if isinstance(v, Tensor)}
        if strange := set(tensors) - self._OWN - self._TYPES:
            raise CannotContinue(f"generate gives the model {sorted(strange)} at each step")
        if self.told:
            before, after = first.get("position_ids"), second.get("position_ids")
            if before is None or after is None or not torch.equal(before[..., -1:] + 1, after):
                raise CannotContinue("positions do not go up by one")
        self.types = {k: tensors[k][:1, -1:] for k in self._TYPES & set(tensors)}
        self.constants = {k: v for k, v in second.items() if k not in {*tensors, *self._OWN}}

    def _next_positions(self, call: Mapping[str, Any], rows: int) -> Tensor | None:
        given = call.get("position_ids") if self.told else None
        if given is None:
            return None
        last: Tensor = given[..., -1:]
        return (last + 1).expand(*given.shape[:-2], rows, 1)

    def step(self, rows: Rows) -> None:
        """Write one more token in each row."""
        if self.constants is None:
            raise CannotContinue("generate never took a second step")
        count = len(rows)
        rows.mask = torch.cat([rows.mask, rows.mask.new_ones(count, 1)], dim=1)
        given: dict[str, Any] = {k: v.expand(count, 1) for k, v in self.types.items()}
        if rows.positions is not None:
            given["position_ids"] = rows.positions
            rows.positions = rows.positions + 1
        out = self.inner(
            **self.constants,
            **given,
            input_ids=rows.last[:, None],
            attention_mask=rows.mask,
            past_key_values=rows.cache,
        )
        lengths = [len(tokens) for tokens in rows.written]
        rows.last = self.pick(out.logits[:, -1].float(), rows.owners, lengths)
        for tokens, token in zip(rows.written, rows.last.tolist(), strict=True):
            tokens.append(token)


def picking(pick: Pick, rows: Sequence[int], width: int) -> dict[str, Any]:
    """What lets a greedy ``generate`` behind ``width`` tokens of prompt choose as ``pick`` does."""
    if pick is likeliest:
        return {}
    from transformers import LogitsProcessorList

    def only(ids: Tensor, scores: Tensor) -> Tensor:
        chosen = pick(scores.float(), rows, [ids.shape[1] - width] * len(rows))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)

    return {"logits_processor": LogitsProcessorList([only])}


def decode(
    decoder: Decoder,
    lengths: Sequence[int],
    ended: Ended,
    *,
    max_new_tokens: int,
    room: Room,
    batch_size: BatchSize,
    progress: Advance | None = None,
) -> list[list[int]]:
    """The tokens written behind each prompt, up to and with the one at which ``ended`` holds.

    When memory runs out, the rows that are being written go back to those that wait, and half
    as many are tried.

    Args:
        lengths: tokens of each prompt.
        ended: whether a row, given its index and its tokens, is finished.

    Raises:
        CannotContinue: see :class:`Decoder`.
        RunError: there is no memory for one row.
    """
    waiting = deque(sorted(range(len(lengths)), key=lambda i: -lengths[i]))
    done: dict[int, list[int]] = {}
    active: Rows | None = None
    while waiting or active:
        here = active.owners if active else []
        longest = max(lengths[i] for i in (*here, *list(waiting)[:1])) + max_new_tokens
        places = room.rows(longest, batch_size)
        new = _next(waiting, places, len(here))
        room.begin()
        rows = attempt(
            partial(_advance, decoder, active, new, max_new_tokens), len(here) + len(new)
        )
        if rows is None:
            room.failed(len(here) + len(new), longest)
            waiting.extendleft(reversed([*here, *new]))
            active = None
            continue
        room.fitted(len(rows) * longest)
        finished = _finished(rows, ended, max_new_tokens)
        done |= {rows.owners[k]: tokens for k, tokens in finished.items()}
        left = [k for k in range(len(rows)) if k not in finished]
        active = rows if not finished else rows.kept(left) if left else None
        if finished and progress is not None:
            progress(len(done), len(lengths))
    return [done[i] for i in range(len(lengths))]


def _next(waiting: deque[int], places: int, busy: int) -> list[int]:
    """Prompts to read now: as many as there are places, once half of the places are free."""
    if 2 * busy > places:
        return []
    return [waiting.popleft() for _ in range(min(len(waiting), places - busy))]


def _finished(rows: Rows, ended: Ended, most: int) -> dict[int, list[int]]:
    """The tokens of the rows that are at an end; a row that was just read may have two."""
    found = {}
    for k, (owner, tokens) in enumerate(zip(rows.owners, rows.written, strict=True)):
        for n in (1, 2) if len(tokens) == 2 else (len(tokens),):
            if n >= most or ended(owner, tokens[:n]):
                found[k] = tokens[:n]
                break
    return found


def _advance(decoder: Decoder, active: Rows | None, new: list[int], most: int) -> Rows:
    """One more token in the active rows, or the first in new ones, which then join them."""
    if not new:
        assert active is not None, "there is nothing to do"
        decoder.step(active)
        return active
    read = decoder.read(new, most)
    return active.joined(read) if active else read


def _text(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config
