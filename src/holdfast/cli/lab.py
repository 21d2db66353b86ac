"""``holdfast lab``: the small world that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress, people

app = typer.Typer(
    no_args_is_help=True,
    help="The lab: a small world of images and facts, with two small models.",
)


@app.command("show")
def show(
    name: Annotated[
        str | None,
        typer.Argument(help="A lab data set (lab:count); by default all.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path(
        "lab.png"
    ),
) -> None:
    """Draw examples of the lab's data, with questions and answers, into one picture."""
    from holdfast import lab

    lab.show(name, out)
    people.print(f"written: {out}", markup=False)


@app.command("build")
def build(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to; by default over the shipped models."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Only this one: lab:vlm or lab:lm.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
) -> None:
    """Pre-train the lab's models again, from a seed (under 60 minutes on two cores)."""
    from holdfast.lab.build import build_all

    build_all(out=out, only=model, seed=seed, progress=TerminalProgress())
