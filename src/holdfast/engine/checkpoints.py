"""Checkpoints that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from holdfast.engine.world import world
from holdfast.errors import RunError
from holdfast.runs.files import explain, read_json, write_json
from holdfast.signals import Signals

SEAL = "sealed.json"


class Seal(TrainerCallback):  # type: ignore[misc]
    """Writes a checkpoint's list of files last; a checkpoint without it was cut off.

    The Trainer deletes the oldest checkpoint before a new one is sealed, and keeps two: the last
    whole one is always there.

    Args:
        identity: what the stage is, so that another's checkpoint is not taken for its own.
        say: told of damage that was found.
    """

    def __init__(
        self, identity: Mapping[str, Any], say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.identity, self.say = dict(identity), say
        self._earlier = 0.0
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time spent on the stage, in this process and up to the checkpoint it took up."""
        return self._earlier + time.perf_counter() - self._began

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:  # each process writes files of its own
            args.distributed_state.wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            written = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != SEAL)
            files = {str(f.relative_to(folder)): _synced(f) for f in written}
        except OSError as error:
            raise RunError(explain(error, folder)) from error
        facts = {"of": self.identity, "seconds": round(self.seconds, 3), "files": files}
        write_json(folder / SEAL, facts)

    def latest(self, folder: Path) -> Path | None:
        """The newest whole checkpoint of this stage; None if there is none.

        One that was cut off or is damaged is named, and deleted: the stage writes it again.

        Raises:
            RunError: a damaged one cannot be deleted, or a whole one is another stage's.
        """
        self._began = time.perf_counter()
        found = [p for p in folder.glob("checkpoint-*") if _step(p) >= 0]
        for checkpoint in sorted(found, key=_step, reverse=True):
            fault = _fault(checkpoint)
            if fault is None:
                self._own(checkpoint)
                return checkpoint
            self.say(f"{fault}; going back to the checkpoint before it")
            try:
                shutil.rmtree(checkpoint)
            except OSError as error:
                raise RunError(explain(error, checkpoint)) from error
        return None

    def _own(self, checkpoint: Path) -> None:
        facts = read_json(checkpoint / SEAL)
        theirs = facts["of"]
        changes = [
            f"{key}: {theirs.get(key)!r} there, {self.identity.get(key)!r} now"
            for key in dict.fromkeys([*self.identity, *theirs])
            if theirs.get(key) != self.identity.get(key)
        ]
        if changes:
            raise RunError(
                f"{checkpoint} is a checkpoint of another run ({'; '.join(changes)}); move it "
                "away or delete it, and run the same command again."
            )
        self._earlier = float(facts["seconds"])


class LeaveInOrder(TrainerCallback):  # type: ignore[misc]
    """Once a signal was received: finish the step, save a checkpoint, stop training."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.signals.received = world().any(self.signals.received or 0) or None
        if args.world_size > 1:
            self._agree(args.device)
        if self.signals.received is not None:
            control.should_save = True
            control.should_training_stop = True

    def _agree(self, device: torch.device) -> None:
        """All processes of a run leave at the same step, whichever of them got the signal."""
        number = torch.tensor(self.signals.received or 0, device=device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        self.signals.received = int(number) or None


def newest_step(folder: Path) -> int:
    """The step of the newest sealed checkpoint in a folder; 0 if there is none."""
    return max((_step(p) for p in folder.glob("checkpoint-*") if (p / SEAL).exists()), default=0)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _synced(file: Path) -> list[Any]:
    """Size and hash of a file that is on the disk once this returns."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return [file.stat().st_size, digest]


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, as a sentence; None if it is whole."""
    seal = checkpoint / SEAL
    if not checkpoint.is_dir() or not seal.exists():
        return f"{checkpoint} was cut off while it was written"
    try:
        facts = read_json(seal)
        files = {str(n): (int(s), str(d)) for n, (s, d) in facts["files"].items()}
        dict(facts["of"])
        float(facts["seconds"])
    except (RunError, KeyError, TypeError, ValueError, AttributeError):
        return f"{seal} is damaged"
    for name, (size, digest) in files.items():
        file = checkpoint / name
        try:
            if file.stat().st_size != size:
                return f"{file} is damaged ({file.stat().st_size} bytes, {size} were written)"
            with file.open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != digest:
                    return f"{file} is damaged (its hash is not the one that was noted)"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror or error})"
    return None
