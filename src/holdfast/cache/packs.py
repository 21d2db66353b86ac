"""Packs: files of many tensors each, written whole, read piece by piece.

A pack is a safetensors file. Its metadata hold a checksum of every tensor, so that a file that
was cut off or written over is told from a good one, and so is one whose length is right.
"""

from __future__ import annotations

import os
import time
import uuid
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SUFFIX = ".safetensors"
_PART = ".part"
_ABANDONED = 3600.0
"""Seconds after which an unfinished file is taken for one that a killed process left."""


def checksum(value: Tensor) -> str:
    """CRC-32 of a tensor's bytes."""
    flat = value.detach().cpu().contiguous().reshape(-1)
    data: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return f"{zlib.crc32(data):08x}"


def write_pack(folder: Path, values: Mapping[str, Tensor]) -> Path:
    """Write ``values`` to a new pack. It appears under its name only when it is whole.

    Raises:
        OSError: the disk is full, or the folder may not be written.
    """
    from holdfast.runs.files import failed_write, sync_folder

    folder.mkdir(parents=True, exist_ok=True)
    name = f"{uuid.uuid4().hex}{SUFFIX}"
    temporary = folder / f"{name}{_PART}"
    try:
        whole = {k: v.detach().cpu().contiguous() for k, v in values.items()}
        save_file(whole, temporary, metadata={k: checksum(v) for k, v in whole.items()})
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, folder / name)
        sync_folder(folder)
    except SafetensorError as error:
        raise failed_write(error) or OSError(str(error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return folder / name


class Pack:
    """One pack, open for reading.

    Raises:
        OSError: it is gone, cut off, or no pack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            opened: Any = safe_open(path, framework="pt")
            self._file = opened
            self._sums: dict[str, str] = opened.metadata() or {}
        except SafetensorError as error:
            raise OSError(f"{path} is damaged: {error}") from error
        self._good: set[str] = set()

    @property
    def keys(self) -> set[str]:
        return set(self._sums)

    def read(self, key: str) -> Tensor | None:
        """The tensor, or None if its bytes are not those that were written."""
        try:
            value: Tensor = self._file.get_tensor(key)
        except (SafetensorError, RuntimeError):
            return None
        if key not in self._good:
            if checksum(value) != self._sums[key]:
                return None
            self._good.add(key)
        return value


def packs(folder: Path) -> list[Path]:
    """The packs in ``folder``, and nothing else that lies there."""
    try:
        return [p for p in folder.iterdir() if p.suffix == SUFFIX]
    except OSError:
        return []


def sweep(folder: Path, limit: int) -> list[Path]:
    """Delete the packs that were used longest ago until at most ``limit`` bytes are left.

    Returns those that were deleted. What a killed process left unfinished goes too.
    """
    found = []
    for path in packs(folder):
        with suppress(OSError):
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_size, path))
    excess = sum(size for _, size, _ in found) - limit
    gone = []
    for _, size, path in sorted(found):
        if excess <= 0:
            break
        with suppress(OSError):
            path.unlink()
            gone.append(path)
            excess -= size
    for path in folder.glob(f"*{_PART}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
    return gone
