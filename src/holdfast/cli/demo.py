"""``holdfast demo``: the whole idea in about five minutes."""

from __future__ import annotations

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

    page, rows = demo(out, workers=workers, progress=TerminalProgress())
    output.print(tables.comparison(rows, "What each recipe taught, and what it cost").rich())
    for row in rows:
        output.print(tables.verdict(row), markup=False)
    output.print(f"\npicture: {out / 'learned-and-lost.png'}\npage:    {page}", markup=False)
