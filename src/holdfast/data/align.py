"""From characters of a rendered conversation to tokens of a processor's output.

A processor replaces each image placeholder by as many tokens as the image needs, and
tokenizes the text that results. Neither that text nor its offsets come out of it, so the
tokenizer is watched while the processor runs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import UsageError

Span = tuple[int, int]


@dataclass(frozen=True)
class Watched:
    """What a processor's tokenizer was given, and what it made of it."""

    text: str
    spans: list[Span]
    """Characters of ``text`` that each token covers; an empty span for an added BOS or EOS."""


def watch(tokenizer: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """A tokenizer that works as ``tokenizer`` does and keeps each call's text and result.

    It shares all state with the original and is of a subclass of its class, so that a
    processor takes it for the same thing.
    """
    original: Any = type(tokenizer)
    kind = _watching(original)
    watched: Any = object.__new__(kind)
    watched.__dict__ = tokenizer.__dict__
    calls: list[tuple[Any, Any]] = []
    kind.holdfast_calls.__set__(watched, calls)
    return watched, calls


@functools.cache
def _watching(kind: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        text = args[0] if args else kwargs.get("text")
        text = list(text) if isinstance(text, list | tuple) else text  # some edit it in place
        encoding = kind.__call__(self, *args, **kwargs)
        watching.holdfast_calls.__get__(self).append((text, encoding))
        return encoding

    # A slot, because __dict__ is the original's own and is not to be written to.
    fields = {"__call__": __call__, "__slots__": ("holdfast_calls",)}
    watching: Any = type(kind.__name__, (kind,), fields)
    return watching


def run_processor(processor: Any, **inputs: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Call ``processor`` on ``inputs``; its output, and the tokenizer calls that it made."""
    twin = copy.copy(processor)
    twin.tokenizer, calls = watch(processor.tokenizer)
    return twin(**inputs), calls


def token_spans(tokenizer: Any, text: str, encoding: Any) -> list[Span]:
    """The characters that each token of ``encoding`` (one text's) covers, in order, gap-free.

    Offsets of fast tokenizers may leave out white space that a token swallowed; such
    characters belong to the token behind them. Tokenizers without offsets are asked for
    each token's text by decoding growing prefixes.
    """
    fast = getattr(encoding, "encodings", None)
    if not fast:
        return _spans_by_decoding(tokenizer, text, _one(encoding["input_ids"]))
    spans, reached = [], 0
    for (start, end), added in zip(fast[0].offsets, _added(fast[0], tokenizer), strict=True):
        if added:
            spans.append((reached, reached))
            continue
        spans.append((min(start, reached), end))
        reached = max(reached, end)
    return spans


def _added(encoding: Any, tokenizer: Any) -> list[bool]:
    """Which tokens the tokenizer put there on its own: special, and with no text of its own."""
    special = set(tokenizer.all_special_ids)
    return [
        start == end and token in special
        for (start, end), token in zip(encoding.offsets, encoding.ids, strict=True)
    ]


def _spans_by_decoding(tokenizer: Any, text: str, ids: Sequence[int]) -> list[Span]:
    spans, reached = [], 0
    special = {t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None}
    for i, token in enumerate(ids):
        piece = tokenizer.decode([token], skip_special_tokens=False)
        if token in special and not text.startswith(piece, reached) and i in (0, len(ids) - 1):
            spans.append((reached, reached))
            continue
        prefix = tokenizer.decode(
            list(ids[: i + 1]), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        end = len(prefix)
        if not text.startswith(prefix) or end < reached:
            raise UsageError(
                f"the tokenizer ({type(tokenizer).__name__}) gives no character offsets and does "
                "not decode to the text it was given, so the supervised tokens cannot be told; "
                "use its fast version (use_fast=True)"
            )
        spans.append((reached, end))
        reached = end
    return spans


def _one(ids: Any) -> list[int]:
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    return [int(t) for t in (values[0] if values and isinstance(values[0], list) else values)]


@dataclass(frozen=True)
class Alignment:
    """Where the pieces of text between images stand after the images were expanded."""

    pieces: tuple[Span, ...]
    """Characters of each piece in the rendered text."""
    first: tuple[int, ...]
    """The earliest place in the expanded text where each piece can start."""
    last: tuple[int, ...]
    """The latest one. Equal to the earliest where the place is certain."""

    def images(self) -> list[Span]:
        """Characters of the expanded text that stand for each image (at most; in order)."""
        lengths = [end - start for start, end in self.pieces]
        return [(self.first[i] + lengths[i], self.last[i + 1]) for i in range(len(self.pieces) - 1)]

    def spans(self, start: int, end: int) -> list[Span] | None:
        """Where ``[start, end)`` of the rendered text stands; None if that is not certain.

        Placeholders inside the range are left out.
        """
        out = []
        for (a, b), first, last in zip(self.pieces, self.first, self.last, strict=True):
            low, high = max(a, start), min(b, end)
            if low < high:
                if first != last:
                    return None
                out.append((first + low - a, first + high - a))
        return out


def align(rendered: str, expanded: str, placeholder: str | None) -> Alignment | None:
    """Find the text between placeholders again after a processor expanded them.

    The pieces of text keep their order and the first and the last are fixed, so the earliest
    and the latest possible place of each piece bound the true one, whatever an image was
    expanded to. None if the text itself was changed.
    """
    texts = rendered.split(placeholder) if placeholder else [rendered]
    pieces, at = [], 0
    for text in texts:
        pieces.append((at, at + len(text)))
        at += len(text) + len(placeholder or "")
    if len(texts) == 1:
        return Alignment(tuple(pieces), (0,), (0,)) if expanded == rendered else None
    final = len(expanded) - len(texts[-1])
    if not expanded.startswith(texts[0]) or not expanded.endswith(texts[-1]):
        return None
    first, at = [0], len(texts[0])
    for text in texts[1:-1]:
        found = expanded.find(text, at + 1)
        if found < 0:
            return None
        first.append(found)
        at = found + len(text)
    last, limit = [final], final
    for text in reversed(texts[1:-1]):
        found = expanded.rfind(text, 0, limit - 1)
        if found < 0:
            return None
        last.append(found)
        limit = found
    last.append(0)
    return Alignment(tuple(pieces), (*first, final), tuple(reversed(last)))
