"""``holdfast demo``: the whole idea in about five minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress


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

    demo(out, workers=workers, progress=TerminalProgress())
