"""``holdfast evaluate``: score a model on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress, output, print_json
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle
from holdfast.progress import Progress


def command(
    model: Annotated[
        str, typer.Argument(help="A lab name, a folder, a hub id, or a run.", show_default=False)
    ],
    tasks: Annotated[
        list[str],
        typer.Option(
            "--tasks",
            "-t",
            help="Tasks or suites: lab:held-out, a .jsonl file, lm_eval:NAME. Repeatable.",
            show_default=False,
        ),
    ],
    limit: Annotated[
        int | None, typer.Option(help="At most so many examples of each task.", min=1)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples at once; by default what fits.", min=1)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Keep every answer in this folder, a JSONL file a task."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars.")] = False,
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
    from holdfast.trust import Trust, trusting

    progress = Progress() if quiet or as_json else TerminalProgress()
    trust = Trust(remote_code=allow_code, pickle=allow_pickle, outside=allow_outside)
    with trusting(trust):
        results = evaluate_model(
            model, tasks, limit=limit, batch_size=batch_size or "auto", out=out, progress=progress
        )
    rows = score_rows(results)
    print_json({"model": model, "tasks": rows}) if as_json else output.print(score_table(rows))
