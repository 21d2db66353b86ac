"""Writing so that a kill at any moment leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from holdfast.errors import RunError
from holdfast.redact import redacted_values, without_environment


def explain(error: OSError, path: Path) -> str:
    """A sentence for the user about a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: {path} could not be written. What was measured before is kept; "
            "make room and run the same command again."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{path} may not be written ({error.strerror}); choose another --out."
    return f"{path} could not be written: {error.strerror or error}."


def failed_write(error: Exception) -> OSError | None:
    """The system's error behind ``error``, which may be torch's or safetensors' own; None if it
    is about something else."""
    if isinstance(error, OSError):
        return error
    text = str(error)
    # torch.save says only that its file is shorter than what it wrote
    if any(sign in text for sign in ("No space left", "os error 28", "inline_container")):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on a clean exit it is synced and renamed.

    Raises :class:`RunError` with a way on when the disk is full or may not be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(explain(error, path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file of ours, whole, without the secrets of the environment."""
    with writing(path) as temporary:
        temporary.write_bytes(without_environment(text).encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value without anything that looks like a secret."""
    held = redacted_values(value)
    write_text(path, json.dumps(held, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises :class:`RunError` naming a file that is torn or foreign."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run again.") from None


def sync_folder(path: Path) -> None:
    """Make a rename durable. Not every filesystem can; then there is nothing to do."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


class Lines:
    """An append-only JSONL file: a line is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: dict[str, Any]) -> None:
        line = without_environment(json.dumps(row)) + "\n"
        try:
            self._mend()
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(line)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise RunError(explain(error, self.path)) from error

    def read(
        self, keep: Callable[[dict[str, Any]], bool] = lambda row: True
    ) -> list[dict[str, Any]]:
        """Every whole line; a last line without its end is one that a kill cut off."""
        if not self.path.exists():
            return []
        rows = []
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], 1):
            try:
                row = json.loads(line)
                wanted = isinstance(row, dict) and keep(row)
            except (ValueError, RecursionError, LookupError, TypeError):
                row = None
            if not isinstance(row, dict):
                raise RunError(f"{self.path}, line {number} is damaged; restore or delete it.")
            if wanted:
                rows.append(row)
        return rows

    def _mend(self) -> None:
        """Cut off what a kill left of an unfinished last line."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as handle:
            data = handle.read()
            end = data.rfind(b"\n") + 1
            if end != len(data):
                handle.truncate(end)
