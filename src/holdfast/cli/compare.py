"""``holdfast compare``: what did this change do?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress, output, people, print_json
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle
from holdfast.errors import UsageError
from holdfast.progress import Progress


def command(
    base: Annotated[
        str, typer.Argument(help="The model before: a lab name, a folder, a hub id, or a run.")
    ],
    tuned: Annotated[str, typer.Argument(help="The model after, from us or from anywhere.")],
    tasks: Annotated[
        list[str],
        typer.Option(
            "--tasks",
            "-t",
            help="Tasks or suites: lab:held-out, a .jsonl file, lm_eval:NAME. Repeatable.",
            show_default=False,
        ),
    ],
    max_forgetting: Annotated[
        str | None,
        typer.Option(
            "--max-forgetting",
            help="A gate: points that may be lost on the mean over tasks, such as 1%. The exit "
            "code is 0 if it holds, 10 if it does not, 11 if these examples cannot decide.",
            show_default=False,
        ),
    ] = None,
    diagnose: Annotated[
        bool,
        typer.Option(
            "--diagnose",
            help="Try every lost example again, and split the loss into format, drift and "
            "knowledge.",
        ),
    ] = False,
    margin: Annotated[
        float, typer.Option(help="Points within which a change counts as none.", min=0.01)
    ] = 1.0,
    noise: Annotated[
        bool,
        typer.Option(
            "--noise/--no-noise",
            help="Ask the base a second time in other batches, for what flips by itself.",
        ),
    ] = True,
    limit: Annotated[
        int | None, typer.Option(help="At most so many examples of each task.", min=1)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples at once; by default what fits.", min=1)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Keep the report and every answer in this folder."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars.")] = False,
    allow_code: AllowCode = False,
    allow_pickle: AllowPickle = False,
    allow_outside: AllowOutside = False,
) -> None:
    """Ask two models the same questions, and say what the change did.

    Which examples were lost and gained, whether that can be told from chance and from the
    noise of batching, and, with --diagnose, whether what was lost is gone or only hidden.

    [bold]Examples[/bold]

      holdfast compare lab:vlm runs/count --tasks lab:held-out --diagnose

      holdfast compare BASE TUNED --tasks mine.jsonl --max-forgetting 1%
    """
    from holdfast.changes.compare import compare
    from holdfast.changes.verdict import GATE_CODES
    from holdfast.report.compare import compare_tables
    from holdfast.trust import Trust, trusting

    limit_points = _points(max_forgetting) if max_forgetting is not None else None
    trust = Trust(remote_code=allow_code, pickle=allow_pickle, outside=allow_outside)
    with trusting(trust):
        found = compare(
            base,
            tuned,
            tasks,
            limit=limit,
            max_forgetting=limit_points,
            margin=margin,
            noise=noise,
            diagnose=diagnose,
            batch_size=batch_size or "auto",
            out=out,
            progress=Progress() if quiet or as_json else TerminalProgress(),
        )
    if as_json:
        print_json(found.to_json())
    else:
        for table in compare_tables(found):
            output.print(table.rich())
        output.print(found.verdict, markup=False)
        if found.gated is not None:
            output.print(f"gate: {found.gated.gate} ({found.gated.why})", markup=False)
    if out is not None:
        people.print(f"written: {out}", markup=False)
    if found.gated is not None:
        raise typer.Exit(GATE_CODES[found.gated.gate])


def _points(text: str) -> float:
    """'1%' or '1' as points."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UsageError(f"--max-forgetting {text}: give points between 0 and 100, such as 1%.")
    return value
