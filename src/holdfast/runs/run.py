"""A run's directory: what it was told, what it measured, what it saved."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote, unquote

import yaml

from holdfast.config import RunConfig, read_yaml, resolve
from holdfast.errors import ConfigError, RunError
from holdfast.runs.files import Lines, read_json, write_json, write_text, writing
from holdfast.tasks.base import Answer, TaskResult

Role = Literal["target", "held-out"]


class Run:
    """One run on disk. Made by :meth:`start`, read back by :meth:`read`."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self.measurements = Lines(path / "measurements.jsonl")
        self._lock: IO[str] | None = None

    @classmethod
    def start(cls, config: RunConfig) -> Run:
        """Make and lock the directory, or take up the run that is in it.

        Nothing but the lock is written before :meth:`begin`.

        Raises:
            RunError: the directory holds another run, something that is no run, or a run
                that another process is working on.
        """
        path = Path(config.out)
        file = path / "run.yaml"
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; choose a folder for --out.")
        if file.exists():
            try:
                held = read_yaml(file)
            except ConfigError as error:
                raise RunError(f"{error}: restore the file, or choose another --out.") from None
            _same(path, held, config)
        elif path.is_dir() and any(path.iterdir()) and not (path / ".lock").exists():
            raise RunError(
                f"{path} is not empty and holds no run (no run.yaml); choose another --out, "
                "so that nothing of yours is overwritten."
            )
        run = cls(path, config)
        run.lock()
        return run

    def begin(self) -> None:
        """Note what the run was told, once that has been checked."""
        if not (self.path / "run.yaml").exists():
            write_text(self.path / "run.yaml", self.config.dump())

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """The run in a directory, for reading. Raises :class:`RunError` if there is none."""
        path = Path(path)
        file = path / "run.yaml"
        if not file.exists():
            raise RunError(f"{path} holds no run: there is no run.yaml in it.")
        return cls(path, resolve(read_yaml(file)))

    def lock(self) -> None:
        """Refuse a second process in the same directory, for as long as this one lives."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be used: {error.strerror}; choose another --out."
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            raise RunError(
                f"another process is working on {self.path}; wait for it, or choose another --out."
            ) from None
        self._lock = handle

    def unlock(self) -> None:
        if self._lock is None:
            return
        if not (self.path / "run.yaml").exists():  # it never began: leave no trace
            (self.path / ".lock").unlink(missing_ok=True)
            with suppress(OSError):
                self.path.rmdir()
        self._lock.close()
        self._lock = None

    # What was measured

    def record(self, stage: int, role: Role, result: TaskResult) -> None:
        """Keep every answer, then the row about them; a row that is there has its answers."""
        with writing(self._answers(stage, result.task)) as temporary, temporary.open("w") as handle:
            for answer in result.answers:
                handle.write(json.dumps(dataclasses.asdict(answer)) + "\n")
        self.measurements.append(
            {
                "kind": "score",
                "stage": stage,
                "role": role,
                "task": result.task,
                "score": _number(result.score),
                "unparsed": _number(result.unparsed),
                "n": result.n,
                "seconds": round(result.seconds, 3),
            }
        )

    def scores(self, stage: int | None = None) -> list[dict[str, Any]]:
        return self.measurements.read(
            lambda r: r["kind"] == "score" and (stage is None or r["stage"] == stage)
        )

    def answers(self, stage: int, task: str) -> list[Answer]:
        """The kept answers of one task after one stage (0: before the first)."""
        file = self._answers(stage, task)
        if not file.exists():
            raise RunError(f"{self.path} has no answers to '{task}' after stage {stage}.")
        rows = (json.loads(line) for line in file.read_bytes().splitlines())
        return [
            Answer(**{**r, "references": tuple(r["references"]), "logprobs": tuple(r["logprobs"])})
            for r in rows
        ]

    def all_answers(self) -> dict[tuple[int, str], list[Answer]]:
        """``{(stage, task): answers}`` for everything scored."""
        return {(r["stage"], r["task"]): self.answers(r["stage"], r["task"]) for r in self.scores()}

    def tasks(self, role: Role) -> list[str]:
        """Names in the order in which they were first scored."""
        return list(dict.fromkeys(r["task"] for r in self.scores() if r["role"] == role))

    def _answers(self, stage: int, task: str) -> Path:
        return self.path / "examples" / f"{stage:02d}" / f"{quote(task, safe='')}.jsonl"

    # Stages

    def stage_folder(self, stage: int) -> Path:
        return self.path / "stages" / f"{stage:02d}"

    def stage_done(self, stage: int) -> dict[str, Any] | None:
        """What was noted when a stage's weights were settled and saved; None if they are not."""
        file = self.stage_folder(stage) / "done.json"
        return read_json(file) if file.exists() else None

    def finish_stage(self, stage: int, facts: Mapping[str, Any]) -> None:
        """Note that a stage is trained, and drop its checkpoints, which nothing needs now."""
        folder = self.stage_folder(stage)
        write_json(folder / "done.json", dict(facts))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def finished(self) -> bool:
        """Whether every stage is trained, scored and published."""
        return (self.path / "finished.json").exists()

    def finish(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path / "finished.json", {"at": now})

    def provenance(self, facts: Mapping[str, Any]) -> None:
        write_json(self.path / "provenance.json", dict(facts))


def task_of(file: Path) -> str:
    """The task whose answers a file under ``examples/`` holds."""
    return unquote(file.stem)


def _number(value: float) -> float | None:
    return None if value != value else round(value, 6)


def _same(path: Path, held: dict[str, Any], config: RunConfig) -> None:
    """Raise unless the run in ``path`` was told the same (its place on disk apart)."""
    mine = yaml.safe_load(config.dump())
    changes = [
        f"{key}: {held_value!r} there, {mine_value!r} now"
        for key, held_value, mine_value in _differences(held, mine)
        if key != "out"
    ]
    if changes:
        raise RunError(
            f"{path} holds another run ({'; '.join(changes[:4])}"
            f"{'; ...' if len(changes) > 4 else ''}). Choose another --out, or repeat that run "
            f"with --config {path / 'run.yaml'}."
        )


def _differences(a: Any, b: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            d
            for k in dict.fromkeys([*a, *b])
            for d in _differences(a.get(k), b.get(k), f"{key}.{k}" if key else k)
        ]
    return [] if a == b else [(key, a, b)]
