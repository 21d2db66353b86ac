"""``holdfast evaluate``: score a model on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import output, print_json
from holdfast.cli._options import AsJson, BatchSize, Limit, Quiet, Tasks, bars
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle, trust_of


def command(
    model: Annotated[
        str, typer.Argument(help="A lab name, a folder, a hub id, or a run.", show_default=False)
    ],
    tasks: Tasks,
    limit: Limit = None,
    batch_size: BatchSize = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Keep every answer in this folder, a JSONL file a task."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    allow_code: AllowCode = False,
    allow_pickle: AllowPickle = False,
    allow_outside: AllowOutside = False,
) -> None:
    """Score a model on tasks, with intervals and with unreadable replies counted apart.

    [bold]Example[/bold]

      holdfast evaluate lab:vlm --tasks lab:held-out --tasks lab:count
    """
    from holdfast.engine.scoring import evaluate_model
    from holdfast.report.run import score_rows, score_table

    progress = bars(hidden=quiet or as_json)
    with trust_of(allow_code, allow_pickle, allow_outside):
        results = evaluate_model(
            model, tasks, limit=limit, batch_size=batch_size or "auto", out=out, progress=progress
        )
    rows = score_rows(results)
    print_json({"model": model, "tasks": rows}) if as_json else output.print(score_table(rows))
