"""Reports of what lies in folders: one run, a comparison of two models, several runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError, RunError, UsageError
from holdfast.report.page import write_comparison
from holdfast.report.rows import labels
from holdfast.report.run import row_of, summary_of, write_report
from holdfast.runs import Run
from holdfast.runs.sameness import command

if TYPE_CHECKING:
    from holdfast.tasks import Task


def report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of a run, of a comparison's folder, or of several runs.

    Args:
        out: a folder for the comparison of several runs.

    Returns:
        The path of the HTML page; its Markdown and JSON twins stand beside it.

    Raises:
        UsageError: several runs without ``out``, or ``out`` for one.
        RunError: a folder holds no finished run and no comparison, or is damaged.
    """
    if len(folders) > 1:
        if out is None:
            raise UsageError("several runs make a comparison; say where to write it, with --out.")
        return _several([_finished(folder) for folder in folders], out)
    if out is not None:
        raise UsageError("--out is for several runs; one run's report is written into its folder.")
    folder = folders[0]
    if (folder / "compare.json").exists() and not (folder / "run.yaml").exists():
        return _comparison(folder)
    return write_report(_finished(folder))[0]


def _finished(folder: Path) -> Run:
    run = Run.read(folder)
    if not run.finished:
        raise RunError(
            f"{folder} is not finished, so its report cannot be written yet; see it at work with "
            f"'holdfast watch {folder}', or let it end with '{command(folder)}'."
        )
    return run


def _several(runs: Sequence[Run], out: Path) -> Path:
    summaries = [summary_of(run) for run in runs]
    rows = [row_of(run, summary) for run, summary in zip(runs, summaries, strict=True)]
    if len(set(labels(rows))) < len(rows):
        names = [f"{r.recipe} ({n})" for r, n in zip(rows, _short(runs), strict=True)]
        rows = [dataclasses.replace(r, recipe=n) for r, n in zip(rows, names, strict=True)]
    models = list(dict.fromkeys(run.config.model for run in runs))
    title = f"{len(runs)} runs of {', '.join(models)}"
    facts = {"runs": ", ".join(str(run.path) for run in runs), "models": ", ".join(models)}
    again = [(str(run.path), command(run.path)) for run in runs]
    write_comparison(out, rows, title, facts=facts, commands=again, summaries=summaries)
    return out / "comparison.html"


def _short(runs: Sequence[Run]) -> list[str]:
    names = [run.path.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _comparison(folder: Path) -> Path:
    """The page of a kept comparison; questions are shown where their task is at hand."""
    from holdfast.changes.compare import family
    from holdfast.changes.kept import read_comparison
    from holdfast.engine.scoring import load_tasks
    from holdfast.report.compare_page import write_compare_report

    found = read_comparison(folder)
    tasks: list[Task] = []
    for name in found.facts.get("tasks") or ():
        if str(name).startswith("lm_eval:"):
            continue
        try:
            limit = found.facts.get("limit")
            tasks += load_tasks([str(name)], model=family(found.base), limit=limit)
        except (HoldfastError, OSError):
            continue
    return write_compare_report(folder, found, tasks)
