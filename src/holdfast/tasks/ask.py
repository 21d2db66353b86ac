"""Ask a model the questions of tasks, and score what it replies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from holdfast.errors import DataError
from holdfast.progress import Advance, Progress
from holdfast.tasks.base import Answer, Example, Task, TaskResult
from holdfast.tasks.generation import generate
from holdfast.tasks.harness import HarnessTask, run_harness
from holdfast.tasks.likelihood import choice_logprobs
from holdfast.tasks.room import BatchSize
from holdfast.tasks.scorers import DETAILS, SCORERS, unreadable


def evaluate(
    model: nn.Module,
    processor: Any,
    tasks: Sequence[Task],
    *,
    batch_size: BatchSize = "auto",
    limit: int | None = None,
    progress: Progress | None = None,
    on_result: Callable[[TaskResult], None] | None = None,
) -> list[TaskResult]:
    """The model's answers to every example of every task, scored.

    Args:
        model: a transformers causal or image-text model, on any device, in any mode.
        processor: its processor, or its tokenizer.
        limit: the first so many examples of each task.
        on_result: called with each task's result as soon as it is there.

    Raises:
        DataError: a task is empty, has an id twice, or an example cannot be asked.
        UnknownName: a task names a scorer that does not exist.
    """
    tasks = [checked(task) for task in tasks]
    results = []
    for task in tasks:
        began = time.perf_counter()
        with (progress or Progress()).bar(task.name) as advance:
            if isinstance(task, HarnessTask):
                found = run_harness(model, processor, task, batch_size=batch_size, limit=limit)
            else:
                examples = list(task.examples if limit is None else task.examples[:limit])
                answers = _ask(model, processor, task, examples, batch_size, advance)
                found = [TaskResult(task.name, tuple(answers), meta=_meta(task, answers))]
        seconds = time.perf_counter() - began
        for result in found:
            results.append(replace(result, seconds=seconds / len(found)))
            if on_result is not None:
                on_result(results[-1])
    return results


def checked(task: Task) -> Task:
    """The task itself, if it can be asked and scored.

    Raises:
        DataError: it has no example, an id twice, an example without a reference, or, when
            asked by choices, one whose choices repeat, are fewer than two or lack the reference.
        UnknownName: its scorer does not exist.
    """
    if isinstance(task, HarnessTask):
        return task
    if task.ask == "generate":
        SCORERS[task.scorer]
    problems = []
    seen: set[str] = set()
    for example in task.examples:
        if example.id in seen:
            problems.append(f"{example.id}: the id is there twice")
        seen.add(example.id)
        if reason := _unfit(task, example):
            problems.append(f"{example.id}: {reason}")
    if not seen:
        problems.append("it has no example")
    if problems:
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        shown = "\n  ".join(problems[:10])
        raise DataError(f"task '{task.name}' cannot be asked:\n  {shown}{more}", problems)
    return task


def _unfit(task: Task, example: Example) -> str | None:
    if not example.references:
        return "there is no reference answer"
    if task.ask == "generate":
        return unreadable(task.scorer, example.references)
    if len(example.choices) < 2 or len(set(example.choices)) < len(example.choices):
        return f"the choices {list(example.choices)} are not two or more different texts"
    if example.references[0] not in example.choices:
        return f"the reference {example.references[0]!r} is not among {list(example.choices)}"
    return None


def _ask(
    model: nn.Module,
    processor: Any,
    task: Task,
    examples: Sequence[Example],
    batch_size: BatchSize,
    advance: Advance,
) -> list[Answer]:
    prompts = [example.prompt for example in examples]
    if task.ask == "choices":
        logprobs = choice_logprobs(
            model,
            processor,
            prompts,
            [example.choices for example in examples],
            batch_size=batch_size,
            progress=advance,
        )
        pairs = zip(examples, logprobs, strict=True)
        return [chosen(task, example, values) for example, values in pairs]
    replies = generate(
        model,
        processor,
        prompts,
        max_new_tokens=task.max_new_tokens,
        batch_size=batch_size,
        progress=advance,
    )
    return [written(task, e, reply) for e, reply in zip(examples, replies, strict=True)]


def written(task: Task, example: Example, reply: str) -> Answer:
    """A reply in words, scored by the task's scorer."""
    score = SCORERS[task.scorer].value(reply, example.references)
    return Answer(
        task=task.name,
        id=example.id,
        reply=reply,
        references=example.references,
        score=score.value,
        parsed=score.parsed,
        cluster=example.cluster,
    )


def chosen(task: Task, example: Example, logprobs: tuple[float, ...]) -> Answer:
    """The most likely choice, the first of equals; none if a likelihood is not a number."""
    values = [
        p / (len(choice.encode()) if task.length_normalised else 1)
        for p, choice in zip(logprobs, example.choices, strict=True)
    ]
    readable = not any(math.isnan(v) for v in values)
    reply = example.choices[values.index(max(values))] if readable else ""
    return Answer(
        task=task.name,
        id=example.id,
        reply=reply,
        references=example.references,
        score=float(readable and reply in example.references),
        parsed=reply if readable else None,
        cluster=example.cluster,
        logprobs=logprobs,
    )


def _meta(task: Task, answers: Sequence[Answer]) -> dict[str, object]:
    if task.ask == "choices":
        return {"ask": task.ask, "length_normalised": task.length_normalised}
    meta: dict[str, object] = {"ask": task.ask, "scorer": task.scorer}
    if task.scorer in DETAILS:
        meta["details"] = dict(DETAILS[task.scorer](answers))
    return meta
