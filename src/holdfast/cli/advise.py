"""``holdfast advise``: which recipe fits what you have, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress, output, print_json
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle
from holdfast.cli._within import NOTHING, points
from holdfast.errors import UsageError
from holdfast.progress import Progress


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="A lab name, a folder, a hub id, or a run; a folder with only a config.json will "
            "do.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", help="What is to be learned. Repeatable.", show_default=False),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep", "-k", help="Tasks that must not be lost. Repeatable.", show_default=False
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Points of them that may be lost, on their mean.")
    ] = "1%",
    old_data: Annotated[
        str | None,
        typer.Option("--old-data", help="Data of what the model knows.", show_default=False),
    ] = None,
    no_old_data: Annotated[
        bool,
        typer.Option("--no-old-data", help="There is none, and no general texts either."),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(help="What there is for weights and optimizer: 24GB.", show_default=False),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="What a search may take: 2h, 30min.", show_default=False)
    ] = None,
    adapters_only: Annotated[
        bool, typer.Option("--adapters-only", help="The model's own weights stay as they are.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="The longest training; by default an epoch.", min=1)
    ] = None,
    examples: Annotated[int, typer.Option(help="At most so many of each task.", min=8)] = 400,
    seed: Annotated[int, typer.Option(help="Of the split and the trials.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(help="Runs at a time, by default one for each core, or one on a GPU.", min=1),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keep the calibration's runs here.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars.")] = False,
    allow_code: AllowCode = False,
    allow_pickle: AllowPickle = False,
    allow_outside: AllowOutside = False,
) -> None:
    """Say which recipe fits what you have, and why. Nothing is tuned.

    With weights and data, every recipe that fits is tried for a quarter of the steps, and what it
    learned and lost is asked. Without, memory and FLOPs come from the model's shape and the rest
    from the committed comparison. The exit code is 10 if every recipe is ruled out.

    [bold]Examples[/bold]

      holdfast advise lab:lm --data lab:arithmetic --budget 1%

      holdfast advise FOLDER --memory 24GB --no-old-data
    """
    from holdfast.budget.advise import advise, byte_count, second_count
    from holdfast.report.advice import advice_table, ruled_out
    from holdfast.trust import Trust, trusting

    if no_old_data and old_data is not None:
        raise UsageError("--old-data and --no-old-data contradict each other; give one of them.")
    train = {} if steps is None else {"steps": steps}
    with trusting(Trust(remote_code=allow_code, pickle=allow_pickle, outside=allow_outside)):
        found = advise(
            model,
            data or [],
            keep or [],
            budget=points(budget),
            old_data=False if no_old_data else old_data,
            adapters_only=adapters_only,
            memory=byte_count(memory) if memory is not None else None,
            time=second_count(time) if time is not None else None,
            out=out,
            examples=examples,
            seed=seed,
            workers=workers,
            progress=Progress() if quiet or as_json else TerminalProgress(),
            **train,
        )
    if as_json:
        print_json(found.to_json())
    else:
        output.print(advice_table(found).rich())
        for line in (*ruled_out(found), *found.notes, found.why, found.command):
            output.print(line, markup=False, soft_wrap=True)
    if found.recommended is None:
        raise typer.Exit(NOTHING)
