"""``holdfast order``: a data set in an order that follows from scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress, output, people, print_json
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle, trust_of
from holdfast.errors import UsageError
from holdfast.progress import Progress


def command(
    data: Annotated[
        str, typer.Argument(help="A .jsonl, .json, .csv or .parquet file, a folder, a lab name.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="What scores; a small model is enough.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ordered data, a .jsonl file.")],
    score: Annotated[
        str,
        typer.Option(
            "--score",
            help="lqs (needs --target), learnability, grand, el2n or ppl, with settings after a "
            "colon (lqs:steps=50,interval=5).",
        ),
    ] = "lqs",
    order: Annotated[
        str,
        typer.Option("--order", help="fold:L, zigzag:L, ascending, descending, shuffled or as-is."),
    ] = "fold:3",
    select: Annotated[float, typer.Option(help="The share of the records that is kept.")] = 1.0,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Which end of the scores: high or low; by default the scorer's own.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Data that the model is to be good at, for lqs.", show_default=False),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="The score's column; by default the scorer's name.", show_default=False),
    ] = None,
    scope: Annotated[
        str, typer.Option(help="A selector: the weights whose gradients count.")
    ] = "language",
    seed: Annotated[int, typer.Option(help="Of the proxy's batches and of shuffled.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Examples in a forward pass.", min=1)] = 8,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens; longer text is cut.", min=2)
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="The folder that image paths start from.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Read at most so many records.", min=1)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars, no notices.")] = False,
    allow_code: AllowCode = False,
    allow_pickle: AllowPickle = False,
    allow_outside: AllowOutside = False,
) -> None:
    """Score every record, keep a share, and write it in an order that any trainer can read.

    Killed at any moment, the same command goes on. The scores stay beside the result, so another
    order or share needs no model. A trainer must not shuffle; ours reads the order with
    --method delt.

    [bold]Example[/bold]

      holdfast order pool.jsonl --score lqs --target good.jsonl --order fold:3 --select 0.5
      --model lab:lm --out ordered.jsonl
    """
    from holdfast.ordering.prepare import order as go
    from holdfast.runs.files import read_json

    if keep not in (None, "high", "low"):
        raise UsageError(f"--keep {keep!r}: give high or low.")
    with trust_of(allow_code, allow_pickle, allow_outside):
        found = go(
            data,
            model=model,
            out=out,
            score=score,
            order=order,
            select=select,
            keep=keep,  # type: ignore[arg-type]
            target=target,
            column=column,
            scope=scope,
            seed=seed,
            batch_size=batch_size,
            max_length=max_length,
            image_root=image_root,
            limit=limit,
            progress=Progress() if quiet or as_json else TerminalProgress(),
        )
    facts = read_json(found.provenance)
    if as_json:
        print_json({"out": str(found.out), **facts})
        return
    output.print(
        f"{len(found.order)} of {len(found.scores)} records, {facts['order']} by "
        f"{facts['scorer']} (median {facts['scores']['median']:.4g}): {found.out}",
        markup=False,
    )
    people.print(f"provenance: {found.provenance}", markup=False)
