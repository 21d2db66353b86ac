"""``holdfast lab``: the small world that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress, output, people

app = typer.Typer(
    no_args_is_help=True,
    help="The lab: a small world of images and facts, with two small models.",
)


@app.command("show")
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A lab data set, such as lab:count. Without it, what there is is listed.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path(
        "lab.png"
    ),
) -> None:
    """List what is in the lab, or draw examples of one data set into a picture."""
    from holdfast import lab

    if name is None:
        for kind, found in (
            ("models", lab.models()),
            ("data", lab.datasets()),
            ("suites", lab.suites()),
        ):
            people.print(f"[bold]{kind}[/bold]")
            for known, summary in found.items():
                output.print(f"  {known:<18} {summary}", markup=False)
        return
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
    from holdfast import lab
    from holdfast.errors import UnknownName
    from holdfast.lab.build import build_all

    if model is not None and model not in lab.models():
        raise UnknownName("lab model", model, lab.models())
    names = [model] if model else list(lab.models())
    short = [name.removeprefix("lab:") for name in names]
    with TerminalProgress().bar(f"pre-training {' and '.join(names)}") as advance:
        places = build_all(short, out or lab.HOME, seed, progress=advance)
    for place in places:
        people.print(f"written: {place}", markup=False)
