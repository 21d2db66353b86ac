"""A run as a process sees it that works on it and is not the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.config import RunConfig
from holdfast.runs.files import Lines
from holdfast.runs.run import Role, Run
from holdfast.tasks.base import TaskResult


class Follower(Run):
    """Reads what the first process writes, and writes nothing itself: no lock, no file."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(Path(config.out), config)
        self.measurements = _Unwritten(self.path / "measurements.jsonl")

    def begin(self) -> None:
        pass

    def record(self, stage: int, role: Role, result: TaskResult) -> None:
        pass

    def finish_stage(self, stage: int, facts: Mapping[str, Any]) -> None:
        pass

    def finish(self) -> None:
        pass

    def provenance(self, facts: Mapping[str, Any]) -> None:
        pass


class _Unwritten(Lines):
    def append(self, row: dict[str, Any]) -> None:
        pass
