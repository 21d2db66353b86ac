"""Records that are encoded when they are first read, and kept while there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holdfast.data import Record

ROOM = 1 << 30
"""Bytes of encoded examples kept in memory."""


class Examples(Sequence[Any]):
    """Encoded records, indexable; the second epoch does not encode again."""

    def __init__(
        self, records: Sequence[Record], encode: Callable[[Record], Any], room: int = ROOM
    ) -> None:
        self.records, self.encode, self.room = records, encode, room
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        if index in self._kept:
            return self._kept[index]
        example = self.encode(self.records[index])
        size = sum(v.numel() * v.element_size() for v in example.values())
        if size <= self.room:
            self.room -= size
            self._kept[index] = example
        return example
