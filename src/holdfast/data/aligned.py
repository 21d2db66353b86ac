"""Which tokens of a processor's output stand for which characters of the rendered text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.data.align import Alignment, Span, Watched, align, token_spans
from holdfast.data.problems import shown
from holdfast.data.records import Record
from holdfast.data.render import image_token
from holdfast.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The label of a token that the loss does not read."""

SEQUENCE_KEYS = ("input_ids", "attention_mask", "labels", "token_type_ids", "mm_token_type_ids")
"""Features with one value per token. All others belong to the images."""


def count_tokens(features: Mapping[str, Tensor]) -> tuple[int, int]:
    """Tokens of an encoded record, and how many of them the loss reads."""
    labels = features.get("labels")
    supervised = 0 if labels is None else int((labels[1:] != IGNORED).sum())
    return len(features["input_ids"]), supervised


class Aligned:
    """A processor's output for one text, and which of its tokens stand for what."""

    def __init__(
        self, features: dict[str, Tensor], watched: Watched | None, text: str, processor: Any
    ) -> None:
        self.features, self.text, self._processor = features, text, processor
        self._tokenizer: Any = getattr(processor, "tokenizer", None) or processor
        self.ids: list[int] = features["input_ids"].tolist()
        self._watched = watched
        self._alignment: Alignment | None = None
        self._drop_added_eos()

    @classmethod
    def of(cls, output: Any, calls: Sequence[Any], processor: Any, text: str) -> Aligned:
        """From the output for ``text`` and the calls that the processor's tokenizer got."""
        features = {k: _tensor(k, v) for k, v in dict(output).items() if _is_feature(v)}
        features.pop("labels", None)
        features.setdefault("attention_mask", _ones_like(features["input_ids"]))
        expanded, encoding = calls[-1] if calls else (None, None)
        if isinstance(expanded, list) and len(expanded) == 1:
            expanded = expanded[0]
        watched = None
        if isinstance(expanded, str):
            tokenizer = getattr(processor, "tokenizer", None) or processor
            watched = Watched(expanded, token_spans(tokenizer, expanded, encoding))
        return cls(features, watched, text, processor)

    def covered(self, ranges: Sequence[Span], record: Record) -> list[bool]:
        """Which tokens hold a character of ``ranges`` (of the rendered text), images excluded."""
        watched, alignment = self._aligned(record)
        wanted: list[Span] = []
        for start, end in ranges:
            found = alignment.spans(start, end)
            if found is None:
                raise DataError(
                    f"record {shown(record.id)}: the supervised text stands between images "
                    "and cannot be told from what they were expanded to; put text that "
                    "differs between the images"
                )
            wanted += found
        inside = _overlaps(watched.spans, wanted)
        images = _overlaps(watched.spans, alignment.images())
        return [a and not b for a, b in zip(inside, images, strict=True)]

    def image_tokens(self) -> list[bool]:
        """Which tokens stand for an image."""
        if self._alignment is not None and self._watched is not None:
            return _overlaps(self._watched.spans, self._alignment.images())
        token = getattr(self._processor, "image_token_id", None)
        return [t == token for t in self.ids]

    def _aligned(self, record: Record) -> tuple[Watched, Alignment]:
        """Raises:
        DataError: the processor did something to the text that cannot be followed.
        """
        if self._watched is None:
            raise self._unaligned(record, "does not tokenize one text at a time")
        if len(self._watched.spans) != len(self.ids):
            raise self._unaligned(record, "changes the tokens after tokenizing")
        placeholder = image_token(self._processor) if record.images else None
        self._alignment = align(self.text, self._watched.text, placeholder)
        if self._alignment is None:
            raise self._unaligned(record, "changes the text besides expanding its images")
        return self._watched, self._alignment

    def _unaligned(self, record: Record, what: str) -> DataError:
        return DataError(
            f"record {shown(record.id)}: the processor ({type(self._processor).__name__}) {what}, "
            "so the supervised tokens cannot be told; nothing is guessed. Use a processor whose "
            "chat template and image token follow transformers' conventions"
        )

    def set_labels(self, supervised: Sequence[bool]) -> None:
        import torch

        chosen = zip(self.ids, supervised, strict=True)
        self.features["labels"] = torch.tensor([t if s else IGNORED for t, s in chosen])

    def truncate(self, length: int | None, images: Sequence[bool], record: Record) -> int:
        """Cut text from the end down to ``length`` tokens; how many tokens that took away."""
        if length is None or len(self.ids) <= length:
            return 0
        if any(images[length:]):
            last = max(i for i, image in enumerate(images) if image)
            raise DataError(
                f"record {shown(record.id)} has {len(self.ids)} tokens, {sum(images)} of them "
                f"for {len(record.images)} image(s), which end at token {last + 1}; "
                f"max_length={length} would cut an image: raise it, or use smaller images"
            )
        self._cut(length)
        return len(self.ids) - length

    def _drop_added_eos(self) -> None:
        """An EOS that the tokenizer put behind the text on its own ends no turn of ours."""
        if self._watched is None or not self.ids or len(self._watched.spans) != len(self.ids):
            return
        start, end = self._watched.spans[-1]
        if start == end and self.ids[-1] == self._tokenizer.eos_token_id:
            self._cut(len(self.ids) - 1)
            self.ids.pop()
            self._watched.spans.pop()

    def _cut(self, length: int) -> None:
        for key in SEQUENCE_KEYS:
            if key in self.features:
                self.features[key] = self.features[key][:length]


def _overlaps(spans: Sequence[Span], ranges: Sequence[Span]) -> list[bool]:
    """For each span (in order of their starts), whether it shares a character with a range."""
    out, ordered, at = [], sorted(ranges), 0
    for start, end in spans:
        while at < len(ordered) and ordered[at][1] <= start:
            at += 1
        out.append(start < end and at < len(ordered) and ordered[at][0] < end)
    return out


def _is_feature(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor | list) and len(value) > 0


def _tensor(key: str, value: Any) -> Tensor:
    import torch

    tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    return tensor[0] if key in SEQUENCE_KEYS and tensor.dim() == 2 else tensor


def _ones_like(ids: Tensor) -> Tensor:
    import torch

    return torch.ones_like(ids)
