"""``holdfast bench``: comparisons over recipes, learning rates and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress

app = typer.Typer(
    no_args_is_help=True, help="Comparisons: grids of runs over recipes, learning rates and seeds."
)


@app.command("narrow")
def narrow(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of all its runs; run again to resume.")
    ] = Path("runs/bench-narrow"),
    docs: Annotated[
        Path | None,
        typer.Option("--docs", help="Write the results page and pictures here too."),
    ] = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option("--recipe", "-r", help="Only these methods. Repeatable.", show_default=False),
    ] = None,
    rates: Annotated[
        list[float] | None,
        typer.Option("--learning-rate", "--lr", help="Only these rates.", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="How many seeds.", min=1, show_default=False)
    ] = None,
    orders: Annotated[
        list[str] | None,
        typer.Option(
            "--order",
            help="Orders of the five skills: default, alternative, reverse. Repeatable.",
            show_default=False,
        ),
    ] = None,
    part: Annotated[str, typer.Option("--part", help="plane, sequence or all.")] = "all",
    workers: Annotated[
        int | None, typer.Option("--workers", help="Runs at a time; by default one a core.", min=1)
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            "--executor",
            help="Where the runs work: local (processes of this machine) or ray (the cluster of "
            "RAY_ADDRESS, or one on this machine).",
        ),
    ] = "local",
) -> None:
    """Narrow tuning on lab:vlm: what each recipe learns and loses, at matched learning.

    Two parts. [bold]plane[/bold]: one skill, recipes x learning rates x seeds, for the Pareto
    front. [bold]sequence[/bold]: five skills one after another, for the paper's figure 1.
    Resumable run by run.
    """
    from holdfast.benchmarks.executors import known_executor
    from holdfast.benchmarks.narrow import bench_narrow

    bench_narrow(
        out,
        docs=docs,
        recipes=recipes,
        rates=rates,
        seeds=seeds,
        orders=orders,
        part=part,
        workers=workers,
        on=known_executor(executor),
        progress=TerminalProgress(),
    )


@app.command("preserve")
def preserve(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of all its runs; run again to resume.")
    ] = Path("runs/bench-preserve"),
    docs: Annotated[
        Path | None,
        typer.Option("--docs", help="Write the results page and pictures here too."),
    ] = None,
    section: Annotated[
        str, typer.Option("--section", help="vision (lab:vlm) or text (lab:lm).")
    ] = "vision",
    recipes: Annotated[
        list[str] | None,
        typer.Option("--recipe", "-r", help="Only these. Repeatable.", show_default=False),
    ] = None,
    rates: Annotated[
        list[float] | None,
        typer.Option("--learning-rate", "--lr", help="Only these rates.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds.", min=1)] = 3,
    orders: Annotated[
        list[str] | None,
        typer.Option("--order", help="Orders of the skills: default, reverse. Repeatable."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Runs at a time; by default one a core.", min=1)
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", help="local, or ray (the cluster of RAY_ADDRESS).")
    ] = "local",
) -> None:
    """Methods against forgetting: five skills in a row, compared at matched learning.

    Every method over learning rates and seeds, at equal steps and batches; the page has Pareto
    fronts, whether seeds agree, and what to take in which situation. The whole grid takes many
    hours on two cores; it can be run recipe by recipe, and the page is about all that is
    finished in the folder.

    [bold]Example[/bold]

      holdfast bench preserve --recipe full --recipe keep
    """
    from holdfast.benchmarks.executors import known_executor
    from holdfast.benchmarks.preserve import bench_preserve

    bench_preserve(
        out,
        docs=docs,
        section=section,
        recipes=recipes,
        rates=rates,
        seeds=seeds,
        orders=orders or ("default",),
        workers=workers,
        on=known_executor(executor),
        progress=TerminalProgress(),
    )


@app.command("adapters")
def adapters(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of all its runs; run again to resume.")
    ] = Path("runs/bench-adapters"),
    docs: Annotated[
        Path | None,
        typer.Option("--docs", help="Write the results page and pictures here too."),
    ] = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option("--recipe", "-r", help="Only these. Repeatable.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds.", min=1)] = 3,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Runs at a time; by default one a core.", min=1)
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", help="local, or ray (the cluster of RAY_ADDRESS).")
    ] = "local",
) -> None:
    """LoRA on the MLP, LoRA on q and v, and full tuning, in the form of PEFT's own comparison.

    lab:lm learns arithmetic; accuracy stands against the rise of the loss on old answers, over
    learning rates and seeds. About a quarter of an hour on two cores; resumable run by run.
    """
    from holdfast.benchmarks.adapters import bench_adapters
    from holdfast.benchmarks.executors import known_executor

    bench_adapters(
        out,
        docs=docs,
        recipes=recipes,
        seeds=seeds,
        workers=workers,
        on=known_executor(executor),
        progress=TerminalProgress(),
    )
