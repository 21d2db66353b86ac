"""One process at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from holdfast.errors import RunError

LOCK = ".lock"


class Lock:
    """A folder's lock. The system drops it when the process ends, however it ends: what a killed
    process leaves behind is a file that locks nothing.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handle: IO[str] | None = None

    @property
    def held(self) -> bool:
        return self._handle is not None

    def take(self) -> None:
        """Raises :class:`RunError` that says which process holds the folder, or that it cannot
        be used."""
        while self._handle is None:
            handle = self._open()
            if not self._try(handle):
                holder = _holder(handle)
                handle.close()
                raise RunError(
                    f"another process is working on {self.folder} ({holder}); wait for it or stop "
                    "it, or choose another --out."
                )
            if _is_still(handle, self.folder / LOCK):
                self._handle = handle
            else:  # its holder removed the file between our opening and our locking it
                handle.close()
        self._sign(self._handle)

    def drop(self, *, remove: bool = False) -> None:
        """Let others in. ``remove``: delete the file too."""
        if self._handle is None:
            return
        if remove:
            with suppress(OSError):
                (self.folder / LOCK).unlink(missing_ok=True)
        self._handle.close()
        self._handle = None

    def _open(self) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"{self.folder} cannot be used: {error.strerror}; choose another --out."
            ) from None

    def _try(self, handle: IO[str]) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            warnings.warn(
                f"the file system of {self.folder} has no locks ({error.strerror}): "
                "take care that no second process works on the same run.",
                stacklevel=2,
            )
        return True

    def _sign(self, handle: IO[str]) -> None:
        """Say who holds the lock. Not being able to (a full disk) does not make it weaker."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(OSError):
            handle.truncate(0)
            handle.write(
                json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
            )
            handle.flush()


def _holder(handle: IO[str]) -> str:
    try:
        handle.seek(0)
        said = json.loads(handle.read(4096))
        return f"process {int(said['pid'])} on {said['host']!s}, since {said['since']!s}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say which"


def _is_still(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except OSError:
        return False
