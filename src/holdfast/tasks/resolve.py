"""Tasks by name."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.errors import UnknownName, UsageError
from holdfast.tasks.base import Task
from holdfast.tasks.options import split_options

_DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".yaml", ".yml")


def load_task(
    name: str | os.PathLike[str],
    *,
    model: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Task]:
    """The tasks that ``name`` stands for.

    Args:
        name: ``lab:NAME``; a suite such as ``lab:held-out``; a path to data of your own, with
            options behind it if wanted (``birds.jsonl:scorer=letter,max_new_tokens=4``); a hub
            data set; or ``lm_eval:NAME``, and ``lm_eval:NAME@FOLDER`` for lm-eval tasks whose
            YAML files lie in a folder.
        model: name or folder of the model that will be asked; suites depend on it.
        limit: at most so many examples of each task.
        seed: of the lab's generators.

    Raises:
        UnknownName: there is no such task, scorer or option.
        DataError: a data file is wrong; the message has its lines.
        UsageError: a suite without a model, or an option with a wrong value.
        MissingExtra: ``lm_eval:`` without lm-eval.
    """
    text = os.fspath(name)
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: at least one example is needed")
    if text.startswith("lab:"):
        return _lab(text, model, limit, seed)
    if text.startswith("lm_eval:"):
        from holdfast.tasks.harness import harness_task

        return [harness_task(text, limit=limit)]
    from holdfast.tasks.userfile import OPTIONS, file_tasks

    source, options = (text, {}) if os.path.exists(text) else split_options(text, OPTIONS)
    if not _may_be_data(source):
        raise UnknownName("task", source, [*_lab_names(), "lm_eval:NAME", "a data file"])
    return file_tasks(source, options, limit=limit)


def _lab(name: str, model: str | Path | None, limit: int | None, seed: int) -> list[Task]:
    from holdfast import lab

    if name not in lab.suites():
        if name not in lab.datasets():
            raise UnknownName("task", name, _lab_names())
        return [lab.task(name, n=limit, seed=seed)]
    if model is None:
        raise UsageError(f"{name} depends on the model; say which one will be asked")
    return [lab.task(task, n=limit, seed=seed) for task in lab.suite(name, model)]


def _lab_names() -> list[str]:
    from holdfast import lab

    return [*lab.datasets(), *lab.suites()]


def _may_be_data(source: str) -> bool:
    path = Path(source)
    return os.path.exists(path) or path.suffix.lower() in _DATA_SUFFIXES or source.count("/") == 1
