"""Score a model on tasks, and keep every answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from holdfast.errors import UsageError
from holdfast.progress import Progress
from holdfast.runs.files import write_json, write_text
from holdfast.tasks import Task, TaskResult, evaluate, load_task


def load_tasks(names: Sequence[str], *, model: str, limit: int | None) -> list[Task]:
    """The tasks behind names and suites; each once, in order.

    Raises :class:`UnknownName` for one that does not exist.
    """
    tasks: dict[str, Task] = {}
    for name in names:
        for task in load_task(name, model=model, limit=limit):
            tasks.setdefault(task.name, task)
    return list(tasks.values())


def evaluate_model(
    name: str,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int | Literal["auto"] = "auto",
    out: Path | None = None,
    progress: Progress | None = None,
) -> list[TaskResult]:
    """Load a model by name and score it on tasks by name.

    Args:
        name: a lab name, a folder, a hub id, or a run.
        tasks: tasks and suites.
        limit: at most so many examples of each task.
        out: a folder to keep every answer in.

    Raises:
        UsageError: no task was named. Others as :func:`load_tasks` and
        :func:`holdfast.models.load`.
    """
    from holdfast.models.code import code_note
    from holdfast.models.loading import load_all
    from holdfast.models.source import resolve

    if not tasks:
        raise UsageError("name at least one task with --tasks.")
    progress = progress or Progress()
    resolve(name)
    chosen = load_tasks(tasks, model=name, limit=limit)
    loaded = load_all(name)
    if said := code_note(loaded.folder):
        progress.say(said)
    results = evaluate(
        loaded.model,
        loaded.processor,
        chosen,
        batch_size=batch_size,
        progress=progress,
        on_result=(lambda r: _keep(out, r)) if out is not None else None,
    )
    if out is not None:
        scores = {r.task: {"score": r.score, "unparsed": r.unparsed, "n": r.n} for r in results}
        write_json(out / "scores.json", {"model": name, "base_hash": loaded.hash, "tasks": scores})
    return results


def _keep(out: Path, result: TaskResult) -> None:
    lines = (json.dumps(dataclasses.asdict(a)) for a in result.answers)
    write_text(out / f"{quote(result.task, safe='')}.jsonl", "\n".join(lines) + "\n")
