"""Tensors by key: in memory, and beneath it on disk for other stages, runs and processes."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from holdfast.cache.packs import Pack, packs, sweep, write_pack

log = logging.getLogger(__name__)

MEMORY = 2 << 30
DISK = 20 << 30
PACK = 64 << 20
"""Bytes that are gathered before a file is written: 6,000 tensors are a few files."""


class Store:
    """A bounded table of tensors that several processes may fill at once.

    A value is a function of its key, which is a hash of everything that went into it, so it does
    not matter whose copy is read or which of two equal writes comes last. On disk the packs used
    longest ago are deleted first; in memory, the tensors read longest ago. A file that is gone,
    cut off or damaged is a miss. A disk that cannot be written ends the writing, not the run.

    Args:
        folder: where the packs are; None keeps everything in memory.
        limit: bytes on disk.
        memory: bytes in memory.
    """

    def __init__(self, folder: Path | None = None, *, limit: int = DISK, memory: int = MEMORY):
        self.folder, self.limit, self.memory = folder, limit, memory
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self._new: dict[str, Tensor] = {}
        self._new_bytes = 0
        self._packs: dict[Path, Pack | None] = {}
        self._where: dict[str, Path] = {}
        self._seen = -1
        self._used: set[Path] = set()
        self._writes = folder is not None

    @property
    def room(self) -> int:
        """Bytes that may be put without another value of the same work being dropped."""
        return max(self.memory, self.limit if self._writes else 0)

    def get(self, key: str) -> Tensor | None:
        """The value (on the CPU; do not write to it), or None."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key in self._new:
            return self._new[key]
        value = self._read(key)
        if value is not None:
            self._keep(key, value)
        return value

    def __contains__(self, key: str) -> bool:
        if key in self._kept or key in self._new:
            return True
        if self.folder is None:
            return False
        if key not in self._where:
            self._look()
        return key in self._where

    def put(self, key: str, value: Tensor) -> None:
        """Keep ``value``, a copy of which goes to disk with the next :meth:`flush`."""
        if key in self:
            return
        value = value.detach().to("cpu", copy=True).contiguous()
        self._keep(key, value)
        if self._writes:
            self._new[key] = value
            self._new_bytes += value.nbytes
            if self._new_bytes >= PACK:
                self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        new, self._new, self._new_bytes = self._new, {}, 0
        if not new or self.folder is None or not self._writes:
            return
        try:
            path = write_pack(self.folder, new)
        except OSError as error:
            self._writes = False
            log.warning("the cache in %s is not written any more: %s", self.folder, error)
            return
        self._where.update(dict.fromkeys(new, path))
        for gone in sweep(self.folder, self.limit):
            self._forget(gone)

    def _keep(self, key: str, value: Tensor) -> None:
        if value.nbytes > self.memory:
            return
        self._kept[key] = value
        self._bytes += value.nbytes
        while self._bytes > self.memory:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.nbytes

    def _read(self, key: str) -> Tensor | None:
        if self.folder is None:
            return None
        if key not in self._where:
            self._look()
        while (path := self._where.get(key)) is not None:
            pack = self._open(path)
            value = pack.read(key) if pack is not None else None
            if value is not None:
                return value
            self._forget(path)  # another pack may hold the key too
        return None

    def _open(self, path: Path) -> Pack | None:
        if path not in self._packs:
            try:
                self._packs[path] = Pack(path)
            except OSError:
                self._packs[path] = None
        if path not in self._used:
            self._used.add(path)
            with suppress(OSError):
                os.utime(path)
        return self._packs[path]

    def _look(self) -> None:
        """Read the headers of packs that came since the last look."""
        assert self.folder is not None
        try:
            now = self.folder.stat().st_mtime_ns
        except OSError:
            return
        if now == self._seen:
            return
        self._seen = now
        for path in packs(self.folder):
            if path in self._packs:
                continue
            try:
                pack = self._packs[path] = Pack(path)
            except OSError:
                self._packs[path] = None
                continue
            self._where.update(dict.fromkeys(pack.keys, path))

    def _forget(self, path: Path) -> None:
        self._packs[path] = None
        self._where = {k: p for p, pack in self._packs.items() if pack for k in pack.keys}
