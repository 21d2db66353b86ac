"""``holdfast repair``: keep the skill, take back the harm, train nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import output, people, print_json
from holdfast.cli._options import After, AsJson, BatchSize, Before, Quiet, bars, points
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle, trust_of
from holdfast.errors import UsageError
from holdfast.progress import Progress

NOTHING = 10
"""Exit code if nothing that was tried is inside the budget."""


def command(
    base: Before,
    tuned: After,
    learned: Annotated[
        list[str] | None,
        typer.Option(
            "--learned", "-l", help="Tasks that measure what was taught. Repeatable.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks", "-t", help="Tasks or suites that must not be lost. Repeatable.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Points that may be lost on the mean over --tasks, such as 1%.")
    ] = "1%",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", "-m",
            help="path, rollback, coefficients, half, or all. Repeatable; by default all.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option(help="At most so many of each task: half choose, half test.", min=4)
    ] = 300,
    evaluations: Annotated[
        int, typer.Option(help="Candidates that rollback may ask at most.", min=4)
    ] = 64,
    at: Annotated[
        float | None,
        typer.Option(
            "--at",
            help="Ask nothing: write the point on the path with this share of the change, tensor "
            "by tensor, for models larger than memory.",
            min=0.0, max=1.0, show_default=False,
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Write a whole model folder, not only what differs.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the halves, the draws and the fits.")] = 0,
    batch_size: BatchSize = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The model, every candidate and the report."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    allow_code: AllowCode = False,
    allow_pickle: AllowPickle = False,
    allow_outside: AllowOutside = False,
) -> None:  # fmt: skip
    """Find the model between BASE and TUNED that keeps most of the skill inside a budget.

    Nothing is trained: parts of the change are taken back, in four ways, and each candidate is
    asked. The exit code is 0 if one is inside the budget, 10 if none is.

    [bold]Examples[/bold]

      holdfast repair lab:vlm runs/count --learned lab:count --tasks lab:held-out -o repaired

      holdfast repair BASE TUNED --at 0.5 --full --out half
    """

    progress = bars(hidden=quiet or as_json)
    with trust_of(allow_code, allow_pickle, allow_outside):
        if at is not None:
            _write(base, tuned, at, out, full=full, asked=bool(learned or tasks), progress=progress)
            return
        from holdfast.changes.repair import repair

        found = repair(
            base,
            tuned,
            learned or [],
            tasks or [],
            budget=points(budget, "--budget"),
            method=method or "all",
            examples=examples,
            evaluations=evaluations,
            seed=seed,
            out=out,
            full=full,
            batch_size=batch_size or "auto",
            progress=progress,
        )
    if as_json:
        print_json(found.to_json())
    else:
        from holdfast.report.repair import repair_tables

        for table in repair_tables(found):
            output.print(table.rich())
        output.print(found.verdict, markup=False)
    if out is not None:
        people.print(f"written: {out}", markup=False)
    if found.chosen is None:
        raise typer.Exit(NOTHING)


def _write(
    base: str,
    tuned: str,
    share: float,
    out: Path | None,
    *,
    full: bool,
    asked: bool,
    progress: Progress,
) -> None:
    from holdfast.changes.repair import interpolate

    if out is None:
        raise UsageError("--at writes a model; say where with --out.")
    if asked:
        raise UsageError("--at asks nothing: leave out --learned and --tasks, or leave out --at.")
    interpolate(base, tuned, out, blend=share, full=full, progress=progress)
    people.print(f"written: {out}", markup=False)
