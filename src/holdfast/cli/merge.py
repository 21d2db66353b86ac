"""``holdfast merge``: one model out of several, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress, output, people, print_json
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle
from holdfast.progress import Progress


def command(
    base: Annotated[
        str, typer.Argument(help="What they were tuned from: a lab name, folder, hub id or run.")
    ],
    models: Annotated[
        list[str], typer.Argument(help="Runs, folders or hub ids.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The merged model's folder.", show_default=False)
    ],
    how: Annotated[
        str,
        typer.Option(
            help="soup, greedy-soup, lm-cocktail, task-arithmetic, ties, dare, dare-ties or slerp, "
            "with settings after a colon: ties:density=0.2,trim=tensor."
        ),
    ] = "soup",
    weight: Annotated[
        list[float] | None,
        typer.Option(
            "--weight", "-w", help="Of each model, in their order. Those of a soup sum to 1.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks", "-t", help="What greedy-soup scores the models on. Repeatable.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", "-d", help="Examples by whose loss lm-cocktail weighs them. Repeatable.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many examples of each.", min=1)
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Write a whole model folder, not only what differs.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars.")] = False,
    allow_code: AllowCode = False,
    allow_pickle: AllowPickle = False,
    allow_outside: AllowOutside = False,
) -> None:  # fmt: skip
    """Merge models that were tuned from BASE, tensor by tensor: memory is one tensor of each.

    soup averages the models; greedy-soup only those that raise a score; lm-cocktail weighs base
    and models by their loss on a few examples. task-arithmetic adds what each model changed to
    the base; ties first trims that and elects signs; dare drops most of it at random. slerp takes
    the point at t on the arc between two models, or between BASE and one.

    [bold]Examples[/bold]

      holdfast merge lab:lm runs/facts runs/sums --how ties:density=0.2 -o both

      holdfast merge BASE A B --how task-arithmetic:scale=0.4 -o sum --full

      holdfast merge BASE A B C --how greedy-soup --tasks held-out.jsonl -o soup
    """
    from holdfast.changes.merge import merge
    from holdfast.trust import Trust, trusting

    progress = Progress() if quiet or as_json else TerminalProgress()
    trust = Trust(remote_code=allow_code, pickle=allow_pickle, outside=allow_outside)
    with trusting(trust):
        found = merge(
            base,
            models,
            out,
            how=how,
            weights=weight or None,
            tasks=tasks or [],
            data=data or [],
            limit=limit,
            full=full,
            progress=progress,
        )
    if as_json:
        print_json(found.to_json())
        return
    for name, value in found.asked.items():
        output.print(f"{name}: {value:.4g}", markup=False)
    for name, share in found.weights.items():
        output.print(f"weight of {name}: {share:.4g}", markup=False)
    output.print(f"{found.changed} weights differ from {base}", markup=False)
    people.print(f"written: {out}", markup=False)
