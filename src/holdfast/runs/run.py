"""A run's directory: what it was told, what it measured, what it saved."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from holdfast.config import RunConfig
from holdfast.errors import RunError
from holdfast.redact import without_environment
from holdfast.runs.files import Lines, read_json, write_json, write_text, writing
from holdfast.runs.lock import LOCK, Lock
from holdfast.runs.sameness import differences, held_config, refuse_other
from holdfast.tasks.base import Answer, TaskResult

Role = Literal["target", "held-out"]


class Run:
    """One run on disk. Made by :meth:`start`, read back by :meth:`read`."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self.measurements = Lines(path / "measurements.jsonl")
        self.taken_over: list[str] = []
        """What the run was told differently whose folder this one took over."""
        self._lock = Lock(path)

    @classmethod
    def start(cls, config: RunConfig) -> Run:
        """Make and lock the directory, or take up the run that is in it.

        Nothing but the lock is written before :meth:`begin`. A run that was told otherwise and
        has measured nothing yet gives its folder up.

        Raises:
            RunError: the directory holds another run, something that is no run, a torn
                ``run.yaml``, or a run that another process is working on.
        """
        path = Path(config.out)
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; choose a folder for --out.")
        _refuse_foreign(path)
        run = cls(path, config)
        run._lock.take()
        try:
            run._meet()
        except BaseException:
            run._lock.drop()
            raise
        return run

    def _meet(self) -> None:
        """Compare with the run that the folder holds, if it holds one."""
        file = self.path / "run.yaml"
        if not file.exists():
            return
        held = held_config(file)
        changes = differences(held, self.config)
        if changes and self._untouched():
            self.taken_over = changes
            return
        refuse_other(self.path, changes)

    def _untouched(self) -> bool:
        """Whether nothing was measured or trained yet."""
        stages = self.path / "stages"
        trained = stages.is_dir() and any(p.is_file() for p in stages.rglob("*"))
        return not trained and not self.measurements.read()

    def begin(self) -> None:
        """Note what the run was told, once that has been checked, and clear away what a killed
        process left half written."""
        for torn in self.path.rglob(".*.part"):
            with suppress(OSError):
                torn.unlink()
        for done in self.path.glob("stages/*/done.json"):
            shutil.rmtree(done.with_name("checkpoints"), ignore_errors=True)
        if self.taken_over:
            for name in ("examples", "stages"):
                shutil.rmtree(self.path / name, ignore_errors=True)
        file, text = self.path / "run.yaml", self.config.dump()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """The run in a directory, for reading. Raises :class:`RunError` if there is none."""
        path = Path(path)
        file = path / "run.yaml"
        if not file.exists():
            raise RunError(f"{path} holds no run: there is no run.yaml in it.")
        return cls(path, held_config(file))

    def unlock(self) -> None:
        """Let other processes in. A run that never began leaves no trace."""
        if not self._lock.held:
            return
        began = (self.path / "run.yaml").exists()
        self._lock.drop(remove=not began)
        if not began:
            with suppress(OSError):
                self.path.rmdir()

    # What was measured

    def record(self, stage: int, role: Role, result: TaskResult) -> None:
        """Keep every answer, then the row about them; a row that is there has its answers."""
        with writing(self._answers(stage, result.task)) as temporary, temporary.open("w") as handle:
            for answer in result.answers:
                line = json.dumps(dataclasses.asdict(answer))
                handle.write(without_environment(line) + "\n")
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
        """The row of every task after every stage (or one), the newest where it was asked twice."""
        rows = self.measurements.read(
            lambda r: r["kind"] == "score" and bool(r["task"]) and stage in (None, int(r["stage"]))
        )
        return list({(r["stage"], r["task"]): r for r in rows}.values())

    def kept(self, stage: int) -> tuple[set[str], list[str]]:
        """Names of the tasks whose answers after ``stage`` are whole, and what is wrong with the
        others, as sentences."""
        whole, faults = set(), []
        for row in self.scores(stage):
            try:
                if len(self.answers(stage, row["task"])) == row["n"]:
                    whole.add(row["task"])
                    continue
                faults.append(f"{self._answers(stage, row['task'])} lacks lines")
            except RunError as error:
                faults.append(str(error).rstrip("."))
        return whole, faults

    def answers(self, stage: int, task: str) -> list[Answer]:
        """The kept answers of one task after one stage (0: before the first).

        Raises :class:`RunError` naming the file, and the line, if it is missing or damaged.
        """
        file = self._answers(stage, task)
        if not file.exists():
            raise RunError(f"{self.path} has no answers to '{task}' after stage {stage}.")
        found = []
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                r = json.loads(line)
                found.append(
                    Answer(
                        **{
                            **r,
                            "references": tuple(r["references"]),
                            "logprobs": tuple(r["logprobs"]),
                        }
                    )
                )
            except (ValueError, TypeError, KeyError, RecursionError):
                raise RunError(f"{file}, line {number} is damaged.") from None
        return found

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

    def facts(self) -> dict[str, Any]:
        """What :meth:`provenance` noted; nothing if that is not there or torn."""
        try:
            found = read_json(self.path / "provenance.json")
        except RunError:
            return {}
        return found if isinstance(found, dict) else {}

    def provenance(self, facts: Mapping[str, Any]) -> None:
        write_json(self.path / "provenance.json", dict(facts))


def task_of(file: Path) -> str:
    """The task whose answers a file under ``examples/`` holds."""
    return unquote(file.stem)


def _number(value: float) -> float | None:
    return None if value != value else round(value, 6)


def _refuse_foreign(path: Path) -> None:
    """Raise unless a folder is new, empty, a run's, or what a run leaves that was killed before
    it began."""
    if not path.is_dir() or (path / "run.yaml").exists():
        return
    others = sorted(
        p.name
        for p in path.iterdir()
        if p.name != LOCK and not (p.name.startswith(".") and p.suffix == ".part")
    )
    if others:
        raise RunError(
            f"{path} is not empty and holds no run (no run.yaml, but {', '.join(others[:4])}"
            f"{', ...' if len(others) > 4 else ''}); choose another --out, so that nothing of "
            "yours is overwritten."
        )
