"""Ask a model how likely it finds each of several continuations of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from holdfast.data import Encoder, collate
from holdfast.data.aligned import SEQUENCE_KEYS
from holdfast.data.records import Record
from holdfast.errors import DataError
from holdfast.pieces.chooser import announce, decides
from holdfast.progress import Advance
from holdfast.tasks.batches import Prompts, asked, forward_names, in_batches, to_model
from holdfast.tasks.branches import branch_logits, distrust, may_branch, settle, width_of
from holdfast.tasks.caches import fork, is_plain, slides
from holdfast.tasks.room import BatchSize, room_of

Encoded = Mapping[str, Tensor]
Ids = tuple[int, ...]

_ROWS = 16
"""Continuations per forward, at least, however few the prompts of a batch are."""
_HEADER = 16
"""Tokens that prompts must have in common for a forward of their own to be worth it."""


class Likelihood(NamedTuple):
    """How a model finds one continuation."""

    logprob: float
    """Sum of the log-probabilities of its tokens, in nats."""
    greedy: bool
    """Whether each token is the most likely one, given those before it."""


def choice_logprobs(
    model: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    choices: Sequence[Sequence[str]],
    *,
    batch_size: BatchSize = "auto",
    progress: Advance | None = None,
) -> list[tuple[float, ...]]:
    """Log-likelihood of every choice after its prompt, in nats.

    A prompt is read once for all its choices. The tokens are those of prompt and choice
    written as one text: where the two merge into one token, the choices are scored from the
    last token that all of them share. Without a chat template, white space at the end of the
    prompt belongs to the choices, as in lm-eval.

    Args:
        prompts: conversations up to the question; a chat template is applied where there is one.
        choices: for each prompt, the continuations to compare; equal ones are scored once.

    Returns:
        For each prompt, one number per choice, in order.

    Raises:
        DataError: a choice has no token, or does not fit in the model's positions.
        RunError: there is no memory for a batch of one.
    """
    encoder = Encoder(processor)
    encoded = Prompts(encoder, prompts)
    plans = [
        continuations(encoder, record, options)
        for record, options in zip(prompts, choices, strict=True)
    ]
    encoded.check_fit(model, max((len(ids) for _, many in plans for ids in many), default=0))

    def prompt(i: int) -> Encoded:
        return _without_last(encoded[i], plans[i][0])

    scored = score_continuations(
        model,
        prompt,
        [n - cut for n, (cut, _) in zip(encoded.lengths, plans, strict=True)],
        [ids for _, ids in plans],
        pad_id=encoder.pad_id,
        batch_size=batch_size,
        progress=progress,
    )
    return [tuple(s.logprob for s in row) for row in scored]


def continuations(
    encoder: Encoder, record: Record, choices: Sequence[str]
) -> tuple[int, list[Ids]]:
    """How many tokens to take off the end of the prompt, and each choice's tokens after that.

    Raises:
        DataError: a choice adds nothing to the prompt, or nothing of the prompt is left.
    """
    text = encoder.conversation.prompt(record)

    def ids(s: str) -> Ids:
        return tuple(encoder.tokenizer.encode(s, add_special_tokens=False))

    asked_ids, wholes = ids(text), [ids(text + choice) for choice in choices]
    views = [asked_ids, *wholes]
    if not encoder.conversation.render.has_template:
        views.append(ids(text.rstrip()))
    shared = _shared_length(views)
    empty = [c for c, whole in zip(choices, wholes, strict=True) if len(whole) <= shared]
    if empty:
        raise DataError(f"example '{record.id}': the choice {empty[0]!r} adds no token")
    return len(asked_ids) - shared, [whole[shared:] for whole in wholes]


def _shared_length(rows: Sequence[Ids]) -> int:
    """How many tokens all rows begin with."""
    columns = enumerate(zip(*rows, strict=False))
    return next((i for i, tokens in columns if len(set(tokens)) > 1), min(map(len, rows)))


def _without_last(encoded: Encoded, count: int) -> Encoded:
    if not count:
        return encoded
    if len(encoded["input_ids"]) <= count:
        raise DataError("a prompt merges with its choices into one token; lengthen the prompt")
    return {k: v[:-count] if k in SEQUENCE_KEYS else v for k, v in encoded.items()}


def score_continuations(
    model: nn.Module,
    prompt: Callable[[int], Encoded],
    lengths: Sequence[int],
    continuations: Sequence[Sequence[Ids]],
    *,
    pad_id: int,
    batch_size: BatchSize = "auto",
    progress: Advance | None = None,
) -> list[list[Likelihood]]:
    """:class:`Likelihood` of each of ``continuations[i]`` after ``prompt(i)``.

    The prompt is run once and its key-value cache is handed to all its continuations; so is
    what the prompts of a batch have in common at their beginning. Logits are made at the
    continuations only, and one of a single token costs no forward of its own. Models whose
    cache or positions cannot be continued that way (recurrent states, multimodal rotary
    positions) read each whole sequence instead: the same numbers, slower.

    Args:
        prompt: gives the encoded i-th prompt, without padding.
        lengths: its length in tokens, for each i.
        pad_id: any token; its positions are masked.
    """
    reader = _Reader(model, pad_id)

    def work(rows: list[int]) -> list[list[Likelihood]]:
        return reader.read([prompt(i) for i in rows], [continuations[i] for i in rows])

    sizes = [n + max(map(len, c), default=0) for n, c in zip(lengths, continuations, strict=True)]
    with asked(model):
        return in_batches(
            sizes,
            work,
            batch_size=batch_size,
            room=room_of(model, "choices", max(sizes, default=1)),
            progress=progress,
        )


class _Reader:
    """One model, reading continuations with or without a shared prefix."""

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id
        names = forward_names(model)
        self.trims = "logits_to_keep" in names
        self.apart = decides(model)
        """Whether each row's own prompt has to be read as one."""
        self.shares = "position_ids" in names and not any(
            hasattr(module, "rope_deltas") for module in model.modules()
        )

    def read(
        self, prompts: Sequence[Encoded], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[Likelihood]]:
        pairs = list(dict.fromkeys((b, c) for b, cs in enumerate(continuations) for c in cs))
        if (branched := self._branched(prompts, continuations)) is not None:
            return branched
        found = self._shared(prompts, pairs) if self.shares else None
        if found is None:
            found = self._whole(prompts, pairs)
        scored = dict(zip(pairs, found, strict=True))
        return [[scored[b, c] for c in cs] for b, cs in enumerate(continuations)]

    def _branched(
        self, prompts: Sequence[Encoded], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[Likelihood]] | None:
        """Every continuation as a branch of its prompt; None where another way is needed.

        The first batch of a model is read in another way too, and branches are used only if the
        numbers are the same.
        """
        many = [list(dict.fromkeys(cs)) for cs in continuations]
        if self.apart or not self.shares or _header(prompts):
            return None
        if all(len(c) == 1 for cs in many for c in cs):
            return None
        width = max(width_of(p, cs) for p, cs in zip(prompts, many, strict=True))
        sure = may_branch(self.model, width)
        if sure is False:
            return None
        try:
            logits = branch_logits(self.model, prompts, many, self.pad_id)
        except (ValueError, TypeError, NotImplementedError):
            distrust(self.model)
            return None
        found = [
            dict(
                zip(
                    cs,
                    (_likelihoods(z[None], [c])[0] for z, c in zip(row, cs, strict=True)),
                    strict=True,
                )
            )
            for row, cs in zip(logits, many, strict=True)
        ]
        if sure is None:
            pairs = [(b, c) for b, cs in enumerate(many) for c in cs]
            other = self._shared(prompts, pairs) or self._whole(prompts, pairs)
            mine = [found[b][c].logprob for b, c in pairs]
            if not settle(self.model, mine, [one.logprob for one in other]):
                return None
        return [[row[c] for c in cs] for row, cs in zip(found, continuations, strict=True)]

    def _shared(
        self, prompts: Sequence[Encoded], pairs: Sequence[tuple[int, Ids]]
    ) -> list[Likelihood] | None:
        longer = [k for k, (_, c) in enumerate(pairs) if len(c) > 1]
        out, mask = self._prompts(prompts, cached=bool(longer))
        cache = out.past_key_values if longer else None
        if longer and not is_plain(cache):
            return None
        rows = torch.tensor([b for b, _ in pairs], device=mask.device)
        first = out.logits[:, -1:].float()[rows]
        found = _likelihoods(first, [c[:1] for _, c in pairs])

        def rest(chosen: list[int]) -> list[Likelihood]:
            picked = [pairs[longer[k]] for k in chosen]
            return self._continue(cache, mask, picked)

        tails = in_batches(
            [len(pairs[k][1]) for k in longer], rest, batch_size=max(len(prompts), _ROWS)
        )
        for k, tail in zip(longer, tails, strict=True):
            head = found[k]
            found[k] = Likelihood(head.logprob + tail.logprob, head.greedy and tail.greedy)
        return found

    def _prompts(self, prompts: Sequence[Encoded], *, cached: bool) -> tuple[Any, Tensor]:
        """The model's output for left-padded prompts, logits at the last token, and the mask.

        What all prompts begin with (the examples of a few-shot task) is read once for all.
        """
        shared = 0 if self.apart else _header(prompts)
        cache = self._read_header(prompts[0], shared) if shared else None
        if cache is None:
            shared = 0
        tails = [_without_first(p, shared) for p in prompts]
        batch = to_model(collate(tails, pad_id=self.pad_id, side="left"), self.model)
        tail = batch.pop("attention_mask")
        mask = torch.cat([tail.new_ones(len(tail), shared), tail], dim=1)
        given: dict[str, Any] = {"use_cache": cached}
        if cache is not None:
            rows = torch.zeros(len(tail), dtype=torch.long, device=mask.device)
            given = {"use_cache": True, "past_key_values": fork(cache, rows)}
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        out = self.model(
            **batch, **given, attention_mask=mask, position_ids=positions, **self._keep(1)
        )
        return out, mask

    def _read_header(self, prompt: Encoded, length: int) -> Any | None:
        """The cache of a prompt's first tokens; None if columns behind it cannot be left empty."""
        ids = prompt["input_ids"][None, :length].to(next(self.model.parameters()).device)
        cache = self.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **self._keep(1)
        ).past_key_values
        return cache if is_plain(cache) and not slides(cache) else None

    def _continue(
        self, cache: Any, mask: Tensor, pairs: Sequence[tuple[int, Ids]]
    ) -> list[Likelihood]:
        """Likelihood of the continuations' second to last tokens, given the first."""
        rows = torch.tensor([b for b, _ in pairs], device=mask.device)
        ids = _padded([c[:-1] for _, c in pairs], self.pad_id, mask.device)
        out = self.model(
            input_ids=ids,
            attention_mask=torch.cat([mask[rows], torch.ones_like(ids)], dim=1),
            position_ids=mask[rows].sum(-1, keepdim=True)
            + torch.arange(ids.shape[1], device=mask.device),
            past_key_values=fork(cache, rows),
            use_cache=True,
        )
        return _likelihoods(out.logits.float(), [c[1:] for _, c in pairs])

    def _whole(
        self, prompts: Sequence[Encoded], pairs: Sequence[tuple[int, Ids]]
    ) -> list[Likelihood]:
        lengths = [len(prompts[b]["input_ids"]) + len(c) for b, c in pairs]

        def work(chosen: list[int]) -> list[Likelihood]:
            picked = [pairs[k] for k in chosen]
            starts = [len(prompts[b]["input_ids"]) - 1 for b, _ in picked]
            encoded = [_extended(prompts[b], c) for b, c in picked]
            batch = to_model(collate(encoded, pad_id=self.pad_id, side="right"), self.model)
            width = batch["input_ids"].shape[1]
            if self.apart:
                begin = torch.tensor(starts, device=batch["input_ids"].device)[:, None]
                places = torch.arange(width, device=begin.device)
                announce(self.model, batch["input_ids"], places <= begin)
            logits = self.model(**batch, use_cache=False, **self._keep(width - min(starts))).logits
            skipped = width - logits.shape[1]
            windows = [
                logits[r, s - skipped : s - skipped + len(c)].float()
                for r, (s, (_, c)) in enumerate(zip(starts, picked, strict=True))
            ]
            return [
                _likelihoods(window[None], [c])[0]
                for window, (_, c) in zip(windows, picked, strict=True)
            ]

        return in_batches(lengths, work, batch_size=max(len(prompts), 1))

    def _keep(self, positions: int) -> dict[str, int]:
        return {"logits_to_keep": positions} if self.trims else {}


def _header(prompts: Sequence[Encoded]) -> int:
    """How many tokens all prompts begin with, if reading them once saves anything; else 0.

    Each prompt keeps a token of its own, and prompts with images are left alone.
    """
    if len(prompts) < 2 or any(set(p) != {"input_ids", "attention_mask"} for p in prompts):
        return 0
    width = min(len(p["input_ids"]) for p in prompts) - 1
    if width < _HEADER:
        return 0
    starts = torch.stack([p["input_ids"][:width] for p in prompts])
    differs = (starts != starts[0]).any(0).nonzero()
    shared = int(differs[0]) if len(differs) else width
    return shared if shared >= _HEADER else 0


def _without_first(encoded: Encoded, count: int) -> Encoded:
    return {k: v[count:] for k, v in encoded.items()} if count else encoded


def _likelihoods(logits: Tensor, targets: Sequence[Ids]) -> list[Likelihood]:
    """``logits`` [N, M, V] in float32, at the positions that predict ``targets`` (M or fewer)."""
    wanted = _padded(targets, 0, logits.device)
    lengths = torch.tensor([len(t) for t in targets], device=logits.device)
    inside = torch.arange(wanted.shape[1], device=logits.device) < lengths[:, None]
    logits = logits[:, : wanted.shape[1]]
    chosen = logits.gather(-1, wanted[..., None])[..., 0] - logits.logsumexp(-1)
    greedy = ((logits.argmax(-1) == wanted) | ~inside).all(-1)
    total = torch.where(inside, chosen, 0.0).sum(-1)
    return [Likelihood(p, g) for p, g in zip(total.tolist(), greedy.tolist(), strict=True)]


def _padded(rows: Sequence[Ids], fill: int, device: torch.device) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=device)


def _extended(encoded: Encoded, ids: Ids) -> dict[str, Tensor]:
    """The prompt with ``ids`` behind it, as text."""
    out = dict(encoded)
    more = encoded["input_ids"].new_tensor(ids)
    for key in SEQUENCE_KEYS:
        if key in out:
            fill = more if key == "input_ids" else torch.full_like(more, key == "attention_mask")
            out[key] = torch.cat([out[key], fill.to(out[key].dtype)])
    return out
