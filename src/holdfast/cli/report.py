"""``holdfast report``: a page that somebody else can read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import output, people


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Finished runs, or the folder of a comparison. Several runs make one page.",
            metavar="RUN...",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="For several runs: the folder of their comparison."),
    ] = None,
) -> None:
    """Write the report of a run, of several runs, or of a kept comparison.

    One HTML file with everything in it, made to be passed on: it loads nothing from elsewhere.
    Its Markdown and JSON twins and the pictures (PNG, SVG) stand beside it.

    [bold]Examples[/bold]

      holdfast report runs/count

      holdfast report runs/full runs/gate-up --out runs/both
    """
    from holdfast.report.folders import report

    page = report(runs, out)
    people.print("written:", end=" ", markup=False)
    output.print(str(page), markup=False, soft_wrap=True)
