"""Data that several runs of one process read alike, read and encoded once."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.data import DataSet, Encoder, Record, Survey, survey
from holdfast.data.encode import LossOn
from holdfast.progress import Progress
from holdfast.trust import trusted

MEMORY = 2 << 30
"""Bytes of encodings that are kept for the runs to come."""
_SETTINGS = (".json", ".jinja", ".model", ".txt", ".py")
"""Files of a model's folder that its processor is made from."""

_kept: OrderedDict[Hashable, Survey] | None = None


def keep() -> None:
    """From here on this process keeps surveys; without it, each is the caller's alone."""
    global _kept
    _kept = OrderedDict() if _kept is None else _kept


def forget() -> None:
    """Drop what is kept, and keep no more."""
    global _kept
    _kept = None


class Reader:
    """Reads data sets as one model does.

    Args:
        folder: the model's files.
        processor: what :func:`holdfast.models.loading.load_processor` found there.
        loss_on, max_length: as :class:`holdfast.data.Encoder`.
    """

    def __init__(
        self,
        folder: Path,
        processor: Any,
        loss_on: LossOn,
        max_length: int | None,
        progress: Progress,
    ) -> None:
        self.encoder = Encoder(processor, loss_on=loss_on, max_length=max_length)
        self.progress = progress
        files = sorted(f for f in folder.iterdir() if f.suffix in _SETTINGS)
        self._setting = (*(_state(str(f)) for f in files), loss_on, max_length, repr(trusted()))

    def survey(self, label: str, data: DataSet, notices: Sequence[str]) -> Survey:
        """Every record encoded and counted, and said so. Raises as :func:`holdfast.data.survey`."""
        self.progress.say(f"{label}: {len(data)} records ({data.format})")
        counted = self._counted(label, data)
        for line in (*notices, *counted.lines()):
            self.progress.say(f"  {line}")
        return counted

    def _counted(self, label: str, data: DataSet) -> Survey:
        key = (self._setting, tuple(_contents(r) for r in data)) if _kept is not None else None
        if _kept is not None and key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
        with self.progress.bar(f"counting tokens of {label}") as advance:
            counted = survey(data, self.encoder, progress=advance)
        if _kept is not None:
            _kept[key] = counted
            while len(_kept) > 1 and sum(s.encoded.held for s in _kept.values()) > MEMORY:
                _kept.popitem(last=False)
        return counted


def _contents(record: Record) -> Hashable:
    """What a record says; of an image in a file, which state of the file is meant."""
    states = tuple(_state(i.path) for i in record.images if i.path is not None)
    tools = repr(record.meta.get("tools"))
    return record.messages, record.images, states, record.id, record.raw, tools


def _state(path: str) -> Hashable:
    with suppress(OSError):
        found = os.stat(path)
        return path, found.st_ino, found.st_size, found.st_mtime_ns
    return path
