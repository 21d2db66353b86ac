"""A user's own data file as a task."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.data import Record, read
from holdfast.data.files import SUFFIXES, file_rows
from holdfast.data.problems import Problems, data_error, shown
from holdfast.errors import DataError, UsageError
from holdfast.tasks.base import Example, Task
from holdfast.tasks.options import Ask, Value
from holdfast.tasks.scorers import SCORERS, unreadable

FEWEST_TOKENS, MOST_TOKENS = 16, 256
"""Bounds of ``max_new_tokens`` where nobody says it."""

OPTIONS: Mapping[str, object] = {
    "scorer": str,
    "ask": Ask,
    "max_new_tokens": int,
    "length_normalised": bool,
    "split": str,
    "format": str,
    "name": str,
    "image_root": str,
}
"""What may stand behind a file's name: ``answers.jsonl:scorer=integer,max_new_tokens=8``."""


def file_tasks(
    source: str, options: Mapping[str, Value], *, limit: int | None = None
) -> list[Task]:
    """The task of a data set in any format that :func:`holdfast.data.read` understands.

    The question is everything up to the last assistant turn, which is the answer. Columns of
    a row that are read: ``references`` or ``answers`` (acceptable answers, instead of the last
    turn alone), ``choices``, ``scorer``, ``cluster``, ``id``. A file whose rows all have
    choices and no scorer is asked by choices. Rows with different scorers are tasks of their
    own, called ``NAME[SCORER]``.

    Raises:
        DataError: the file is missing or malformed, an id is there twice, an answer is
            missing, unreadable for its scorer, or not among the choices.
        UnknownName: a scorer that does not exist.
    """
    split, format = options.get("split"), options.get("format")
    data = read(
        source,
        limit=limit,
        split=str(split) if split else None,
        format=str(format) if format else None,
        image_root=str(root) if (root := options.get("image_root")) else None,
    )
    name = str(options.get("name", data.name))
    summary = f"{source} ({data.format})"
    ids = [str(record.meta.get("id", record.id)) for record in data]
    places = _Places(source)
    return _tasks(data, ids, options, source=source, places=places, name=name, summary=summary)


def task_from_records(name: str, records: Sequence[Record], **options: Value) -> Task:
    """One task of records that are in memory, read as the rows of a file are.

    Args:
        options: as in :data:`OPTIONS`: ``scorer``, ``ask``, ``max_new_tokens``,
            ``length_normalised``.

    Raises:
        DataError: a record cannot be asked or scored; an id is there twice.
        UsageError: the records name several scorers.
    """
    places = [f"record {shown(record.id)}" for record in records]
    ids = [record.id for record in records]
    tasks = _tasks(records, ids, options, source=name, places=places, name=name, summary="")
    if len(tasks) > 1:
        found = ", ".join(task.scorer for task in tasks)
        raise UsageError(f"the records of '{name}' name several scorers ({found}); choose one")
    return tasks[0]


def _tasks(
    records: Sequence[Record],
    ids: Sequence[str],
    options: Mapping[str, Value],
    *,
    source: str,
    places: Sequence[str] | _Places,
    name: str,
    summary: str,
) -> list[Task]:
    ask, scorers = _ways(records, options)
    problems: list[str] = []
    groups: dict[str, list[Example]] = {}
    seen: dict[str, int] = {}
    for index, (record, given) in enumerate(zip(records, ids, strict=True)):
        example, found = _example(record, given, ask, scorers[index])
        if given in seen:
            found.append(f"the id {shown(given)} is that of {places[seen[given]]} too")
        seen.setdefault(given, index)
        problems += [f"{places[index]}: {reason}" for reason in found]
        groups.setdefault(scorers[index], []).append(example)
    if problems:
        raise data_error(source, problems)
    if not groups:
        raise DataError(f"{source} holds no records; a task needs at least one question")
    return [
        Task(
            name=name + (f"[{scorer}]" if len(groups) > 1 else ""),
            examples=tuple(examples),
            ask=ask,
            scorer=scorer,
            max_new_tokens=_tokens(options, examples),
            length_normalised=bool(options.get("length_normalised", False)),
            summary=summary,
        )
        for scorer, examples in groups.items()
    ]


def _ways(data: Sequence[Record], options: Mapping[str, Value]) -> tuple[Ask, list[str]]:
    """How the file is asked, and each row's scorer."""
    own = [record.meta.get("scorer") for record in data]
    choices = all(record.meta.get("choices") is not None for record in data)
    silent = "scorer" not in options and not any(own)
    ask: Ask = "choices" if options.get("ask", "") == "choices" else "generate"
    if "ask" not in options and choices and silent:
        ask = "choices"
    if ask == "choices":
        return ask, ["exact"] * len(data)
    scorers = [str(options.get("scorer") or name or "exact") for name in own]
    for name in dict.fromkeys(scorers):
        SCORERS[name]
    return ask, scorers


def _tokens(options: Mapping[str, Value], examples: Sequence[Example]) -> int:
    """As told; else enough for the longest answer, were each of its characters a token."""
    if "max_new_tokens" not in options:
        longest = max(len(r) for example in examples for r in example.references)
        return min(max(longest + 1, FEWEST_TOKENS), MOST_TOKENS)
    count = int(options["max_new_tokens"])
    if count < 1:
        raise UsageError("max_new_tokens=0: at least one token is needed for an answer")
    return count


def _example(record: Record, name: str, ask: Ask, scorer: str) -> tuple[Example, list[str]]:
    """The row's example, and what is wrong with it."""
    found: list[str] = []
    references = _texts(record, "references", found) or _texts(record, "answers", found)
    answer = record.answer()
    if answer in references:
        references = (answer, *(r for r in references if r != answer), *_others(references, answer))
    references = references or ((answer,) if answer.strip() else ())
    choices = _texts(record, "choices", found) if ask == "choices" else ()
    if record.raw or not record.prompt().messages:
        found.append("it is plain text and asks nothing; expected a question and its answer")
    elif not references:
        found.append("there is no answer; expected an assistant turn, or references")
    elif ask == "choices":
        found += _unfit_choices(choices, references[0])
    elif reason := unreadable(scorer, references):
        found.append(reason)
    cluster = record.meta.get("cluster")
    example = Example(
        id=name,
        prompt=record.prompt(),
        references=references,
        choices=choices,
        cluster=str(cluster) if cluster is not None else _images_key(record),
    )
    return example, found


def _others(references: Sequence[str], answer: str) -> tuple[str, ...]:
    """Further copies of the answer: how often annotators agreed on it counts for some scorers."""
    return (answer,) * (references.count(answer) - 1)


def _unfit_choices(choices: Sequence[str], reference: str) -> list[str]:
    if len(choices) < 2 or len(set(choices)) < len(choices):
        return [f"choices are {shown(list(choices))}; expected two or more different texts"]
    if reference not in choices:
        return [f"the answer {shown(reference)} is not among the choices {list(choices)!r:.200}"]
    return []


def _texts(record: Record, key: str, found: list[str]) -> tuple[str, ...]:
    """A column of texts: a list of strings or numbers, or VQA's list of {"answer": ...}."""
    value = record.meta.get(key)
    if value is None:
        return ()
    items = list(value) if isinstance(value, list | tuple) else [value]
    texts = [_text(item) for item in items]
    if not texts or None in texts:
        found.append(f"{key} is {shown(value)}; expected a list of strings that is not empty")
        return ()
    return tuple(text for text in texts if text is not None)


def _text(item: Any) -> str | None:
    if isinstance(item, Mapping):
        item = item.get("answer")
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        return None
    if isinstance(item, float) and not math.isfinite(item):
        return None
    if isinstance(item, int) and item.bit_length() > 3000:
        return None
    text = str(item)
    return text if text.strip() else None


def _images_key(record: Record) -> str:
    """Examples about the same pictures are not independent: they share a cluster."""
    images = [i.data or (i.path or "").encode() for i in record.images]
    return "|".join(hashlib.sha256(image).hexdigest()[:16] for image in images)


class _Places:
    """Where in its file a record stands, looked up only when there is something to say."""

    def __init__(self, source: str) -> None:
        self._source = source
        path = Path(source)
        is_file = os.path.isfile(path) and path.suffix.lower() in SUFFIXES
        self._found: list[str] | None = None if is_file else []

    def __getitem__(self, index: int) -> str:
        if self._found is None:
            rows = file_rows(Path(self._source), Problems(self._source))
            self._found = [place for place, _ in rows]
        return self._found[index] if index < len(self._found) else f"record {index + 1}"
