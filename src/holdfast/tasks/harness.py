"""lm-eval's tasks, asked of the model that is already loaded."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from holdfast.errors import DataError, UnknownName, UsageError, need
from holdfast.tasks.base import Answer, Task, TaskResult
from holdfast.tasks.options import Value, split_options
from holdfast.tasks.room import BatchSize
from holdfast.tasks.states import random_states

PREFIX = "lm_eval:"
OPTIONS: Mapping[str, object] = {"num_fewshot": int, "metric": str, "chat": bool}
"""``num_fewshot``; ``metric``: the one that scores an answer, by default the task's first;
``chat``: put prompts through the model's chat template (by default not, as in lm-eval)."""


@dataclass(frozen=True)
class HarnessTask(Task):
    """A task or a group of tasks of lm-eval. Its examples are lm-eval's and not loaded here."""

    harness_name: str = ""
    manager: Any = field(default=None, compare=False, repr=False)
    """lm-eval's ``TaskManager``, which knows the task's YAML file."""
    limit: int | None = None
    options: Mapping[str, Value] = field(default_factory=dict)


def harness_task(name: str, *, limit: int | None = None) -> HarnessTask:
    """``lm_eval:NAME`` or ``lm_eval:NAME@FOLDER``, with options behind it if wanted.

    With a folder only the YAML files in it are known, and nothing is downloaded unless one of
    them says so.

    Raises:
        UnknownName: lm-eval has no such task or group.
        UsageError: the folder does not exist.
        MissingExtra: lm-eval is not installed.
    """
    need("lm_eval", "lm-eval")
    text, options = split_options(name.removeprefix(PREFIX), OPTIONS)
    task, _, folder = text.partition("@")
    if folder and not Path(folder).is_dir():
        raise UsageError(f"'{name}': {folder} is not a folder with lm-eval task files (.yaml)")
    manager = _manager(str(Path(folder).resolve())) if folder else _default_manager()
    known = list(manager.all_tasks)
    if task not in known:
        shown = known if len(known) <= 50 else get_close_matches(task, known, n=10, cutoff=0.4)
        raise UnknownName("lm-eval task", task, shown)
    return HarnessTask(
        name=PREFIX + task,
        examples=(),
        summary=f"lm-eval's {task}" + (f" in {folder}" if folder else ""),
        harness_name=task,
        manager=manager,
        limit=limit,
        options=options,
    )


def _manager(folder: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    with _quiet():
        return TaskManager(include_path=folder, include_defaults=folder is None)


@cache
def _default_manager() -> Any:
    """Kept, since lm-eval reads thousands of files to make it."""
    return _manager(None)


def run_harness(
    model: nn.Module,
    processor: Any,
    task: HarnessTask,
    *,
    batch_size: BatchSize = "auto",
    limit: int | None = None,
) -> list[TaskResult]:
    """lm-eval's results on the model, one per task; a group gives several.

    The score of an answer is lm-eval's own value of the task's metric, where that lies in
    [0, 1]; otherwise it is NaN. ``meta["metrics"]`` has everything that lm-eval reports,
    standard errors included. Random states are the same afterwards.

    Raises:
        DataError: the task's data cannot be loaded.
        UsageError: a metric that the task does not have, or a task that asks for sampling.
    """
    from lm_eval import simple_evaluate

    from holdfast.tasks.harness_model import LoadedModel

    limits = [n for n in (limit, task.limit) if n is not None]
    shots = task.options.get("num_fewshot")
    with _quiet(), random_states():
        try:
            found = simple_evaluate(
                LoadedModel(model, processor, batch_size),
                tasks=[task.harness_name],
                task_manager=task.manager,
                num_fewshot=int(shots) if shots is not None else None,
                limit=min(limits) if limits else None,
                apply_chat_template=bool(task.options.get("chat", False)),
                log_samples=True,
            )
        except (OSError, ConnectionError) as error:
            raise DataError(
                f"lm-eval could not load the data of '{task.harness_name}': {error}. Without a "
                "network, name local files in its YAML and use lm_eval:NAME@FOLDER"
            ) from error
    wanted = str(task.options["metric"]) if "metric" in task.options else None
    alone = len(found["samples"]) == 1
    return [
        _result(task.name if alone else PREFIX + name, samples, found["results"][name], wanted)
        for name, samples in found["samples"].items()
    ]


def _result(
    name: str, samples: Sequence[Mapping[str, Any]], report: Mapping[str, Any], wanted: str | None
) -> TaskResult:
    first = samples[0]["filter"] if samples else ""
    rows = [s for s in samples if s["filter"] == first]
    metrics = list(rows[0]["metrics"]) if rows else []
    if wanted is not None and wanted not in metrics:
        raise UsageError(f"{name} has no metric '{wanted}'; it has {', '.join(metrics)}")
    metric = wanted or next(iter(metrics), "")
    numbers = {k: v for k, v in report.items() if isinstance(v, int | float)}
    return TaskResult(
        task=name,
        answers=tuple(_answer(name, row, metric) for row in rows),
        meta={"ask": "lm_eval", "metric": metric, "filter": first, "metrics": numbers},
    )


def _answer(task: str, row: Mapping[str, Any], metric: str) -> Answer:
    responses = row["filtered_resps"]
    likely = [r for r in responses if isinstance(r, list | tuple) and len(r) == 2]
    logprobs = tuple(float(r[0]) for r in likely) if len(likely) == len(responses) > 1 else ()
    if logprobs:
        texts = [str(_continuation(a)) for a in row["arguments"]]
        reply = texts[logprobs.index(max(logprobs))].strip()
        references: tuple[str, ...] = _targets(row["target"], [t.strip() for t in texts])
    else:
        reply = responses[0] if isinstance(responses[0], str) else str(responses[0])
        references = _targets(row["target"], [])
    return Answer(
        task=task,
        id=str(row["doc_id"]),
        reply=reply,
        references=references,
        score=_share(row.get(metric)),
        parsed=None if reply in ("", "[invalid]") else reply,
        logprobs=logprobs,
    )


def _continuation(arguments: Any) -> Any:
    return arguments[1] if isinstance(arguments, list | tuple) else arguments.get("arg_1", "")


def _targets(target: Any, choices: Sequence[str]) -> tuple[str, ...]:
    """The right answers as text; lm-eval gives a choice's index where there are choices."""
    many = target if isinstance(target, list | tuple) else [target]
    return tuple(
        choices[t] if isinstance(t, int) and 0 <= t < len(choices) else str(t) for t in many
    )


def _share(value: Any) -> float:
    """A metric's value where it is a share of the full mark; NaN where it is something else."""
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    return math.nan


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's own log lines, unless they are errors."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
