"""Encoding a whole data set before training: what it holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from holdfast.data.aligned import count_tokens
from holdfast.data.batch import collate
from holdfast.data.dataset import DataSet
from holdfast.data.problems import data_error
from holdfast.data.records import Record
from holdfast.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.encode import Encoder

_UNUSABLE = ("record that cannot be used", "records that cannot be used")

MEMORY = 1 << 30
"""Bytes of encoded records that are kept; beyond that they are encoded when they are read."""


class EncodedSet(Sequence[Mapping[str, "Tensor"]]):
    """A data set's encoded records, each encoded when it is first read.

    Args:
        memory: how many bytes of them to keep; the rest is encoded again at each reading.
    """

    def __init__(
        self, records: Sequence[Record], encoder: Encoder, *, memory: int = MEMORY
    ) -> None:
        self.records, self.encoder = records, encoder
        self._kept: dict[int, Mapping[str, Tensor]] = {}
        self._sizes: list[tuple[int, int] | None] = [None] * len(records)
        self._memory = self._room = memory

    @property
    def held(self) -> int:
        """Bytes of the encodings that are kept."""
        return self._memory - self._room

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Tensor]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index in self._kept:
            return dict(self._kept[index])
        features = self.encoder(self.records[index])
        self.keep(index, features)
        return features

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        return (self[i] for i in range(len(self)))

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Encoded records as one batch, padded on the right."""
        return collate(rows, pad_id=self.encoder.pad_id)

    def size(self, index: int) -> tuple[int, int]:
        """Tokens of a record, and how many of them the loss reads. Encodes it only once."""
        if self._sizes[index] is None:
            self[index]
        size = self._sizes[index]
        assert size is not None, "reading an item counts it"
        return size

    def keep(self, index: int, features: Mapping[str, Tensor]) -> None:
        """Keep one record's counts, and its encoding if there is room for it."""
        self._sizes[index] = count_tokens(features)
        size = sum(t.numel() * t.element_size() for t in features.values())
        if index not in self._kept and size <= self._room:
            self._room -= size
            self._kept[index] = dict(features)


@dataclass(frozen=True)
class Survey:
    """What a data set holds, as the model will read it."""

    records: int
    images: int
    tokens: int
    """All tokens, those that stand for images included."""
    image_tokens: int
    longest: int
    """Tokens of the longest record."""
    supervised: int
    """Tokens that the loss reads."""
    supervised_min: int
    supervised_mean: float
    supervised_max: int
    truncated: int
    """Records that lost text to ``max_length``."""
    encoded: EncodedSet
    """The encodings, for training."""

    def lines(self) -> list[str]:
        """The counts as text for a dry run."""
        return [
            f"{self.records:,} records, {self.images:,} images",
            f"{self.tokens:,} tokens, {self.image_tokens:,} of them for images; "
            f"the longest record has {self.longest:,}",
            f"{self.supervised:,} supervised tokens; per record {self.supervised_min:,} to "
            f"{self.supervised_max:,}, {self.supervised_mean:.1f} on average",
            f"{self.truncated:,} records cut at max_length",
        ]


def survey(
    dataset: Sequence[Record],
    encoder: Encoder,
    *,
    progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> Survey:
    """Encode every record once and count.

    Args:
        progress: called with (done, total) after each record.
        memory: bytes of encodings to keep for training.

    Raises:
        DataError: records that cannot be encoded, or of which nothing would be supervised; all
            of them are in ``problems``.
        UsageError: there are no records.
    """
    name = dataset.source if isinstance(dataset, DataSet) else "the data set"
    if not len(dataset):
        raise UsageError(f"{name} has no records")
    encoded = EncodedSet(dataset, encoder, memory=memory)
    problems: list[str] = []
    supervised: list[int] = []
    lengths: list[int] = []
    image_tokens = truncated = 0
    for i, record in enumerate(dataset):
        try:
            encoding = encoder.encode(record)
        except DataError as error:
            problems.append(str(error))
        else:
            supervised.append(encoding.supervised)
            lengths.append(encoding.tokens)
            image_tokens += encoding.image_tokens
            truncated += encoding.cut > 0
            encoded.keep(i, encoding.features)
        if progress is not None:
            progress(i + 1, len(dataset))
    if problems:
        raise data_error(name, problems, what=_UNUSABLE)
    return Survey(
        records=len(dataset),
        images=sum(len(r.images) for r in dataset),
        tokens=sum(lengths),
        image_tokens=image_tokens,
        longest=max(lengths),
        supervised=sum(supervised),
        supervised_min=min(supervised),
        supervised_mean=sum(supervised) / len(supervised),
        supervised_max=max(supervised),
        truncated=truncated,
        encoded=encoded,
    )
