"""``holdfast compare``: what did this change do?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import output, people, print_json
from holdfast.cli._options import (
    After,
    AsJson,
    BatchSize,
    Before,
    Limit,
    Quiet,
    Tasks,
    bars,
    points,
)
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle, trust_of


def command(
    base: Before,
    tuned: After,
    tasks: Tasks,
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
    limit: Limit = None,
    batch_size: BatchSize = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Keep the report and every answer in this folder."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
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

    most = points(max_forgetting, "--max-forgetting") if max_forgetting is not None else None
    with trust_of(allow_code, allow_pickle, allow_outside):
        found = compare(
            base,
            tuned,
            tasks,
            limit=limit,
            max_forgetting=most,
            margin=margin,
            noise=noise,
            diagnose=diagnose,
            batch_size=batch_size or "auto",
            out=out,
            progress=bars(hidden=quiet or as_json),
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
