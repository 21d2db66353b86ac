"""``holdfast watch``: a run at work, in the terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import output
from holdfast.errors import RunError


def command(
    run: Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)],
    every: Annotated[
        float, typer.Option(help="Seconds between two looks at the folder.", min=0.1)
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show how it stands, and stop.")] = False,
) -> None:
    """Show a run while it trains: stage, steps, loss, and what it has lost so far.

    Reads the run's folder and nothing else: it can start before the run does, on another
    machine that sees the folder, and stop at any time.

    [bold]Example[/bold]

      holdfast watch runs/count
    """
    from rich.live import Live

    from holdfast.report.live import look, shown

    if once or not output.is_terminal:
        output.print(shown(look(run)))
        return
    with Live(console=output, auto_refresh=False) as live:
        while True:
            try:
                seen = look(run)
                live.update(shown(seen), refresh=True)
                if seen.finished:
                    return
            except RunError as error:  # not there yet, or written at this moment
                live.update(str(error), refresh=True)
            time.sleep(every)
