"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from holdfast.errors import RunError
from holdfast.runs.files import explain, read_json, write_json

SEAL = "sealed.json"


class Seal(TrainerCallback):  # type: ignore[misc]
    """Writes a checkpoint's list of files and sizes last; one without it was cut off."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for file in folder.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        write_json(
            folder / SEAL, {f.name: f.stat().st_size for f in folder.iterdir() if f.is_file()}
        )


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint; torn ones are deleted. None if there is none.

    Raises :class:`RunError` if a torn one cannot be deleted.
    """
    found = sorted(
        (p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()),
        key=lambda p: int(p.name.removeprefix("checkpoint-")),
        reverse=True,
    )
    for checkpoint in found:
        if _whole(checkpoint):
            return checkpoint
        try:
            shutil.rmtree(checkpoint)
        except OSError as error:
            raise RunError(explain(error, checkpoint)) from error
    return None


def _whole(checkpoint: Path) -> bool:
    if not (checkpoint / SEAL).exists():
        return False
    try:
        sizes = read_json(checkpoint / SEAL)
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (RunError, OSError, AttributeError):
        return False
