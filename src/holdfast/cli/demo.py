"""``holdfast demo``: the whole idea in about five minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress, output


def command(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of its runs; run again to resume.")
    ] = Path("runs/demo"),
    workers: Annotated[
        int | None, typer.Option("--workers", help="Runs at a time; by default one a core.", min=1)
    ] = None,
) -> None:
    """Teach a small multimodal model to count, by several recipes, and see what each one lost.

    Everything is on this machine: the model, the pictures, the skills. Ends with a table, a
    picture, and where they are.
    """
    from holdfast.benchmarks.demo import demo
    from holdfast.report import tables
    from holdfast.report.rows import labels

    page, rows = demo(out, workers=workers, progress=TerminalProgress())
    output.print(tables.comparison(rows, "What each recipe taught, and what it cost").rich())
    for row, name in zip(rows, labels(rows), strict=True):
        output.print(tables.verdict(replace(row, recipe=name)), markup=False)
    output.print(
        f"\npicture: {out / 'learned-and-lost.png'}\npage:    {page.with_suffix('.html')}",
        markup=False,
    )
